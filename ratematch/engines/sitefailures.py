"""Known failures that are no engine's own: what CUDA and the driver, NCCL, NIXL and UCX, MPI, Slurm, container
runtimes, model hubs, Python and the machine say, whatever engine runs on them.

Tables. ``reference`` is a row of section 9 of TensorRT-LLM's contract where it stands there (``list``: its strings to
grep), ``step`` for what srun, pyxis and env say when a step does not start, else the program that writes the line.
Where a remedy names an option of an engine, the row stands in that engine's own table, with the pattern from here.
"""

from __future__ import annotations

from ratematch.engines.knownfailure import KnownFailure, ordinary, quiet, row

GPU_MEMORY = (
    r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|(?:CUDA|[Cc]uda|CUDART|GPU|NCCL|\bcu[A-Z]\w+).{0,200}out of memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_ALLOC_FAILED|Failed to CUDA \w+alloc|[Uu]nable to allocate .{0,40}(?:GPU|device) memory"
    r"|[Ff]ailed to allocate .{0,60}(?:GPU|device) memory"
)
"""A GPU has no memory left, in the words of PyTorch, the CUDA runtime and driver, cuBLAS and NCCL."""

CUDA: tuple[KnownFailure, ...] = (
    row(
        "illegal-access",
        "CUDA",
        r"illegal memory access was encountered|CUDA_ERROR_ILLEGAL_ADDRESS|cudaErrorIllegalAddress"
        r"|misaligned address|unspecified launch failure|CUDA_ERROR_LAUNCH_FAILED"
        r"|illegal instruction was encountered|NVRM: Xid.{0,40}: (?:13|31),",
        "a kernel read or wrote memory that is not its own (a fault of the engine, or of a GPU)",
        "run again; if it comes back, try another attention or MoE backend or engine version, and on one node only "
        "the hardware; CUDA_LAUNCH_BLOCKING=1 names the kernel",
    ),
    row(
        "device-assert",
        "CUDA",
        r"device-side assert triggered|CUDA_ERROR_ASSERT",
        "a kernel found a value that it does not take, such as a token id above the vocabulary",
        "check the token ids of the prompts against the model's vocabulary; CUDA_LAUNCH_BLOCKING=1 names the kernel",
    ),
    row(
        "ecc",
        "CUDA",
        r"[Uu]ncorrectable (?:ECC|memory) error|CUDA_ERROR_ECC_UNCORRECTABLE|cudaErrorECCUncorrectable"
        r"|NVRM: Xid.{0,40}: (?:48|63|64|94|95),|Double Bit ECC|row remapping (?:failed|failure)"
        r"|ECC (?:page retirement|row remapping) .{0,40}fail",
        "a GPU has a memory fault that its ECC cannot correct",
        "leave out that node (slurm.exclude), and have its GPU reset or replaced; nvidia-smi -q -d ECC shows it",
    ),
    row(
        "nvlink-error",
        "CUDA",
        r"over nvlink or a hardware error|CUDA_ERROR_NVLINK_UNCORRECTABLE|[Uu]ncorrectable NVLink error"
        r"|cudaErrorNvlinkUncorrectable|NVRM: Xid.{0,40}: (?:74|144|145|146|147|148|149|150),|NVLink: fatal error",
        "an NVLink between GPUs failed",
        "leave out that node and have it checked (nvidia-smi nvlink -e, dmesg for Xid 74)",
    ),
    row(
        "gpu-lost",
        "CUDA",
        r"fallen off the bus|GPU is lost|NVRM: Xid.{0,40}: (?:79|119|120),|Unable to determine the device handle"
        r"|CUDA_ERROR_DEVICE_UNAVAILABLE|GPU requires reset",
        "a GPU is gone from its node",
        "leave out that node and have it rebooted (dmesg shows the Xid)",
    ),
    row(
        "fabric-manager",
        "CUDA",
        r"system not yet initialized|Error 802\b|cudaErrorSystemNotReady|CUDA_ERROR_SYSTEM_NOT_READY"
        r"|[Ff]abric ?[Mm]anager.{0,60}(?:\bnot\b|never|fail|[Ee]rror)|error in the Fabric Manager"
        r"|Failed to bind NVLink SHARP|Fabric State.{0,20}(?:In Progress|Not )",
        "CUDA cannot start on that node: the NVSwitch fabric is not up",
        "have nvidia-fabricmanager started there, in the driver's version (nvidia-smi -q shows Fabric State)",
    ),
    row(
        "driver-old",
        "CUDA",
        r"CUDA driver version is insufficient|NVIDIA driver on your system is too old|Error 80[34]\b"
        r"|unsupported display driver / cuda driver combination|forward compatibility was attempted"
        r"|compiled with an unsupported toolchain|cudaErrorUnsupportedPtxVersion|cudaErrorInsufficientDriver"
        r"|CUDA_ERROR_UNSUPPORTED_PTX_VERSION|[Dd]river/library version mismatch|NVML/RM version mismatch"
        r"|LibRmVersionMismatch"
        r"|nvidia-container-cli: requirement error|cudaErrorSystemDriverMismatch|cudaErrorCompatNotSupportedOnDevice",
        "the node's driver is too old for the CUDA of the image, or its parts are of two versions",
        "use an image for that driver, or a newer driver; libraries of cuda-compat only help on data centre GPUs",
    ),
    row(
        "no-gpu",
        "list",
        r"Failed to initialize NVML|libcuda\.so\.1: cannot open|could not select device driver"
        r"|No CUDA GPUs are available|no CUDA-capable device is detected|Failed to infer device type"
        r"|No GPU devices found on the node|Found no NVIDIA driver on your system|NVML: Driver Not Loaded"
        r"|CUDA_ERROR_NO_DEVICE|cudaErrorNoDevice|couldn't communicate with the NVIDIA driver"
        r"|nvidia-container-cli: initialization error|NVMLError_DriverNotLoaded|CUDA unknown error"
        r"|CUDA driver initialization failed|Current node has no GPU available|Torch not compiled with CUDA enabled"
        r"|local rank \d+ is out of bounds for 0 devices",
        "the server found no GPU that it can use",
        "check the gres request, CUDA_VISIBLE_DEVICES, the driver (nvidia-smi) and that the container gets the GPUs",
    ),
    row(
        "device-ordinal",
        "CUDA",
        r"invalid device ordinal|CUDA_ERROR_INVALID_DEVICE\b|cudaErrorInvalidDevice\b|Invalid device id",
        "a rank was given a GPU that its process cannot see",
        "check CUDA_VISIBLE_DEVICES and the GPUs of the step (slurm.gpus) against the ranks a node",
    ),
    row(
        "gpu-taken",
        "CUDA",
        r"is less than desired GPU memory utilization|devices? (?:\(s\) )?(?:is/are|are) busy or unavailable"
        r"|CUDA-capable device\(s\) is/are busy|all CUDA-capable devices are busy|CUDA_ERROR_DEVICES_UNAVAILABLE"
        r"|cudaErrorDevicesUnavailable|Error in memory profiling",
        "another program holds memory of the GPU, or the GPU itself",
        "end it (nvidia-smi names it), or lower gpu_memory_utilization (vLLM) or free_gpu_memory_fraction",
    ),
    row(
        "no-kernel-image",
        "CUDA",
        r"no kernel image is available for execution|CUDA_ERROR_NO_BINARY_FOR_GPU|cudaErrorNoKernelImageForDevice"
        r"|device kernel image is invalid|CUDA_ERROR_INVALID_IMAGE|cudaErrorInvalidKernelImage"
        r"|is not compatible with the current PyTorch installation\. The current",
        "the image has no kernels for this kind of GPU",
        "use an image or wheel that was built for its compute capability",
    ),
    row(
        "mps",
        "CUDA",
        r"MPS client failed|CUDA_ERROR_MPS_\w+|cudaErrorMps\w+|MPS server is not ready",
        "the node shares its GPUs by CUDA's MPS, and its control daemon cannot be reached",
        "have MPS stopped there or its daemon started; unset CUDA_MPS_PIPE_DIRECTORY, or mount it into the container",
    ),
    row(
        "cuda-fork",
        "CUDA",
        r"Cannot re-initialize CUDA in forked subprocess",
        "a process that had used CUDA started its workers by fork, in which CUDA does not work",
        "set the start method to spawn (VLLM_WORKER_MULTIPROCESSING_METHOD=spawn for vLLM)",
    ),
    row(
        "kernel-resources",
        "CUDA",
        r"OutOfResources: out of resource|too many resources requested for launch",
        "a kernel needs more shared memory or registers than this kind of GPU has",
        "choose another attention or MoE backend, or an engine version that is tuned for this GPU",
    ),
    row(
        "peer-access",
        "CUDA",
        r"peer access is not supported between|Can't enable access between nodes|peer mapping resources exhausted"
        r"|cudaErrorPeerAccessUnsupported|CUDA_ERROR_PEER_ACCESS_UNSUPPORTED|cudaErrorTooManyPeers",
        "GPUs of one server cannot read each other's memory",
        "place the server on GPUs with NVLink (nvidia-smi topo -m), or switch the custom all-reduce off",
    ),
    row(
        "imex",
        "CUDA",
        r"cuMem(?:Create|ImportFromShareableHandle|ExportToShareableHandle)\b.{0,120}"
        r"(?:not permitted|NOT_PERMITTED|: 800\b)"
        r"|nvidia-caps-imex-channels"
        r"|IMEX.{0,80}(?:not (?:running|available|found|ready|up)|fail|[Uu]navailable|UNAVAILABLE)"
        r"|IMEX.{0,80}(?:no channel|DEGRADED|DOWN|[Ii]nvalid|[Ee]rror)|MNNVL.{0,80}(?:not working|fail)"
        r"|no IMEX|[Ff]abric handle.{0,80}(?:not permitted|NOT_PERMITTED)"
        r"|CUDA_ERROR_NOT_PERMITTED|cudaErrorNotPermitted",
        "memory cannot be shared over NVLink between nodes: the node has no IMEX channel for this user",
        "have nvidia-imex started and a channel given (/dev/nvidia-caps-imex-channels, also in the container), or "
        "switch multi-node NVLink off (NCCL_MNNVL_ENABLE=0, UCX_CUDA_IPC_ENABLE_MNNVL=n)",
    ),
    row(
        "jit-compile",
        "CUDA",
        r"(?i)nvrtc.{0,80}(?:error|fail)|nvcc['\"]?: (?:command )?not found|could not find nvcc"
        r"|nvcc.{0,40}No such file"
        r"|CUDA_HOME environment variable is not set|ninja is required to load|error building extension"
        r"|nvcc fatal|ninja build failed|ptxaserror|ptxas fatal|could not find compatible compiler"
        r"|failed to find c compiler|detected in the compilation of|nvcc compilation failed"
        r"|fatal error: python\.h: no such file"
        r"|calledprocesserror: command '\[.{0,40}/(?:gcc|g\+\+|cc|clang|nvcc|ptxas)\b",
        "a kernel that is compiled at start could not be compiled",
        "use an image with the CUDA toolkit and its headers (CUDA_HOME, nvcc, ninja), and clear the kernel caches",
    ),
)

NCCL: tuple[KnownFailure, ...] = (
    quiet(
        row(
            "two-ranks-one-gpu",
            "row 16",
            r"NCCL error.{0,200}invalid usage|NCCL WARN.{0,200}Duplicate GPU|Duplicate GPU detected",
            "NCCL was used wrongly: two ranks see the same GPU",
            "check CUDA_VISIBLE_DEVICES of each rank",
        )
    ),
    quiet(
        row(
            "shm-small",
            "row 16",
            r"(?i)shm.{0,80}(?:no space left|too small)|shared memory segment.{0,120}no space"
            r"|unexpected bus error encountered in worker|insufficient shared memory|</torch_.{0,80}No space left"
            r"|shm_broadcast.{0,80}no space|failed to allocate shared memory|shared memory.{0,40}No space left",
            "/dev/shm is too small",
            "give the container a larger /dev/shm",
        )
    ),
    quiet(
        row(
            "nccl-network",
            "NCCL",
            r"NCCL WARN (?!.{0,200}(?:remote peer|reset by peer|Broken pipe|remote process exited|/dev/shm)).{0,60}"
            r"(?:NET/|[Ss]ocket|[Cc]onnect|[Bb]ootstrap|ibv_|ibvwrap|Got completion|[Nn]etwork)"
            r"|Bootstrap : no socket interface found",
            "NCCL could not reach a rank on another node",
            "check NCCL_SOCKET_IFNAME and NCCL_IB_HCA against the node's devices, and the network between the nodes",
            rank="suspect",
        )
    ),
    row(
        "nvshmem",
        "NVSHMEM",
        r"(?i)nvshmem.{0,120}(?:fail|error|non-zero status|abort)",
        "NVSHMEM, on which wide expert parallelism (DeepEP) rests, could not start or failed",
        "check its transport (IBGDA needs the driver's PeerMappingOverride), or choose another all-to-all back end",
        rank="suspect",
    ),
    row(
        "rendezvous",
        "PyTorch",
        r"DistNetworkError|TCPStore.{0,80}(?:timed out|timeout)|client socket has timed out"
        r"|wait timeout after .{0,40}for key|torch\.distributed\.DistStoreError",
        "the ranks of a server did not find each other",
        "see whether another rank ended first; check the master address and port, and NCCL_SOCKET_IFNAME",
        rank="suspect",
    ),
    row(
        "nccl",
        "list",
        r"gloo.{0,160}Connection (?:closed|reset)|NCCL error|ncclSystemError|ncclRemoteError|ncclInternalError"
        r"|ncclUnhandledCudaError|NCCL communicator was aborted",
        "NCCL failed",
        "see the lines before it; /dev/shm too small and two ranks on one GPU are common",
        rank="general",
    ),
    row(
        "nccl-watchdog",
        "NCCL",
        r"Watchdog caught collective operation timeout|NCCL watchdog thread terminated|Process group watchdog thread"
        r"|DeepEP error: timeout",
        "ranks waited for another one that never came",
        "see which rank is silent or failed first: its own lines, or its log, have the cause",
        rank="general",
    ),
)

TRANSFER: tuple[KnownFailure, ...] = (
    row(
        "nixl-backend",
        "NIXL",
        r"backend '?\w+'? not found|Failed to create NIXL backend|No plugins? (?:available|found) for"
        r"|Failed to load plugin"
        r"|createBackend: .{0,80}(?:not found|unsupported)|plugin.{0,40}libplugin_\w+\.so.{0,60}(?:not found|fail)"
        r"|libplugin_\w+\.so: |[Uu]nsupported NIXL backend|[Uu]nknown NIXL backend|nixl_wrapper\.so|nixl_wrapper: "
        r"|[Ff]ailed to (?:create|load|initialize) (?:a |the )?NIXL|NIXL agent creation fail",
        "NIXL cannot load its back end (UCX, LIBFABRIC)",
        "use one NIXL: check NIXL_PLUGIN_DIR and LD_LIBRARY_PATH for a second libnixl, and the back end's name",
    ),
    row(
        "libfabric",
        "NIXL",
        r"Deserialization of tag dest_data_ep|deserialize data rail|dest_(?:data|control)_ep_\d+ not found"
        r"|libfabric_\w+\.cpp:\d+\].{0,80}(?:[Ff]ail|[Ee]rror|not found)"
        r"|fi_(?:getinfo|fabric|domain|endpoint)\b.{0,40}fail",
        "NIXL's libfabric back end failed; on EFA mostly ctx and gen with another number of rails or another setting",
        "give both sides the same back end in one place (NIXL_BACKEND or TRTLLM_NIXL_KVCACHE_BACKEND, not both)",
    ),
    row(
        "nixl-missing",
        "NIXL",
        r"NIXL is not available|No module named 'nixl(?:_cu1\d)?(?:\._\w+|\._?bindings|\._api)?'"
        r"|libnixl\w*\.so.{0,20}cannot open shared|undefined symbol: \w*nixl|nixl is not installed"
        r"|NIXL is not installed",
        "the server has no NIXL that works, so it cannot hand KV caches over",
        "install nixl beside the engine in a version that fits it (pip install nixl), or choose another back end",
    ),
    row(
        "engine-id-mismatch",
        "NIXL",
        r"engine ID mismatch",
        "a decode server reached another prefill server than the one it was sent to",
        "set VLLM_NIXL_SIDE_CHANNEL_HOST to each node's own address, with a free port range a server",
    ),
    row(
        "address-foreign",
        "socket",
        r"Cannot assign requested address|\[Errno 99\]|EADDRNOTAVAIL|ZMQError: No such device",
        "a server was told to listen on an address that its node does not have",
        "check host names and VLLM_NIXL_SIDE_CHANNEL_HOST: each node needs its own",
    ),
    row(
        "host-name",
        "socket",
        r"Name or service not known|\[Errno -2\]|\[Errno -3\]|nodename nor servname"
        r"|Temporary failure in name resolution"
        r"|Could not resolve host|getaddrinfo failed",
        "a host name means nothing on that node",
        "check the host names of the deployment and the node's name service; addresses work too",
        rank="suspect",
    ),
    row(
        "memlock",
        "UCX",
        r"(?:ibv_reg_mr|fi_mr_reg).{0,120}Cannot allocate memory|max locked memory|memlock limit|RLIMIT_MEMLOCK",
        "the network may not lock enough memory",
        "raise the limit of locked memory (ulimit -l unlimited) for steps and containers",
    ),
    row(
        "rdma",
        "UCX",
        r"network device '?[\w:]+'? is not available|ibv_open_device\b.{0,80}fail|ibv_create_\w+.{0,80}fail"
        r"|mlx5dv_devx_obj_create.{0,60}fail|UCX  ERROR.{0,120}(?:ibv_|mlx5|rdma|no usable transports)"
        r"|no usable transports/devices|Destination is unreachable|Transport retry count exceeded"
        r"|UCX  ERROR.{0,120}(?:Endpoint timeout|no active messages transport)|Unexpected UCX error: (?!.*[Mm]emory)"
        r"|UCX  ERROR (?!.*cuMem).{0,160}(?:timed? ?out|send\(\d+\)|Connection (?:reset|refused)|[Uu]nreachable)",
        "the RDMA network of a node failed or is not there",
        "check the devices (ibstat), UCX_NET_DEVICES, and that the container has /dev/infiniband",
    ),
    row(
        "nixl-disconnect",
        "NIXL",
        r"NIXL_ERR_REMOTE_DISCONNECT|nixlRemoteDisconnectError|ucxx::\w+Error|Connection reset by remote peer",
        "the other side of a KV transfer was gone",
        "see whether the ctx (prefill) server ended; if it runs, restart both and check the RDMA network",
        rank="suspect",
    ),
    row(
        "no-worker",
        "Dynamo",
        r"No workers available for endpoint|NatsError: no responders|no responders available",
        "no worker of that kind is there to take a request",
        "see the logs of the prefill and decode workers: they mostly ended",
        rank="suspect",
    ),
    row(
        "etcd",
        "Dynamo",
        r"Unable to maintain lease|etcd.{0,60}(?:connection refused|unavailable|deadline exceeded)"
        r"|Failed to connect to etcd|NATS.{0,60}(?:[Cc]onnection refused|disconnected)"
        r"|etcdserver: mvcc: database space exceeded",
        "etcd or NATS, through which servers find each other, is gone",
        "see whether it runs and is reached from the servers' nodes",
    ),
)

MPI: tuple[KnownFailure, ...] = (
    row(
        "ompi-without-pmi",
        "Open MPI",
        r"OMPI was not built with SLURM's PMI|was not built with SLURM support|OPAL ERROR: Unreachable in file",
        "the MPI of the image cannot be started by this srun",
        "use an --mpi (slurm.mpi in the cluster profile) that both know, mostly pmix; `srun --mpi=list` names them",
    ),
    row(
        "pmi-init",
        "PMI",
        r"PMI2?_Init\b.{0,30}(?:fail|returned)|PMIx_Init failed|PMIX ERROR: (?:UNREACHABLE|PMIX_ERR_UNREACH)"
        r"|pmix_init\w* .{0,40}failed|PMIx server.{0,40}unreachable",
        "MPI ranks found no PMI of Slurm to start with",
        "use --mpi=pmix (slurm.mpi in the cluster profile), and the same PMIx inside the container",
    ),
    row(
        "pmix-flavour",
        "row 14",
        r"PMIx is detected, but OMPI_COMM_WORLD_RANK is not set",
        "wrong flavour of srun --mpi",
        "use --mpi=pmix, with ntasks = tp x pp x cp",
    ),
    row(
        "world-size",
        "MPI",
        r"MPI worldSize is expected to be equal|World size \(\d+\) is larger than the number of available GPUs"
        r"|mpi_world_size.{0,40}(?:!=|does not match|not equal)"
        r"|world[_ ]size.{0,60}(?:does not match|mismatch|must be equal)"
        r"|There are not enough slots available in the system",
        "the number of ranks or GPUs is not tp x pp x cp",
        "give the step one rank and one GPU for each (slurm.tasks, slurm.gpus), or change the parallelism",
    ),
    row(
        "mpi-init",
        "Open MPI",
        r"MPI_INIT failed|[Ee]rror occurred in MPI_Init|PML add procs failed|ORTE_ERROR_LOG|OPAL ERROR: "
        r"|ORTE was unable to|ORTE daemon has unexpectedly failed|PRTE ERROR",
        "MPI could not start its ranks",
        "check slurm.mpi in the cluster profile (mostly pmix) and that image and site have the same PMIx",
        rank="suspect",
    ),
    row(
        "mpi-abort",
        "list",
        r"MPI_ABORT|MPI_ERRORS_ARE_FATAL|mpi(?:run|exec) (?:has exited|detected|noticed)"
        r"|Executor worker (?:returned error|died)",
        "one rank ended all of them",
        "the first error is in an earlier line, or in another rank's log (TLLM_ALL_RANK_LOG=1 shows all)",
        rank="general",
    ),
)

SLURM: tuple[KnownFailure, ...] = (
    row(
        "time-limit",
        "list",
        r"DUE TO TIME LIMIT",
        "the Slurm job reached its time limit",
        "ask for more time, or fewer loads",
    ),
    row(
        "preempted",
        "Slurm",
        r"DUE TO PREEMPTION|DUE to SIGNAL Preempt|[Jj]ob (?:\d+ )?(?:was |has been )?preempted",
        "the Slurm job was preempted by one of higher priority",
        "run again (measured loads are kept), or use a partition or QOS that is not preempted",
    ),
    row(
        "requeued",
        "Slurm",
        r"DUE TO JOB REQUEUE|[Jj]ob (?:\d+ )?(?:was |has been )?requeued",
        "the Slurm job was requeued",
        "see who requeued it (sacct -D -j JOB); measured loads are kept",
    ),
    row(
        "node-failure",
        "Slurm",
        r"DUE TO NODE FAILURE|[Nn]ode failure on|NODE_FAIL|srun: error: .{0,60}: Node failure",
        "a node of the Slurm job failed",
        "run again without that node (slurm.exclude); sinfo -R shows why it is down",
    ),
    row(
        "host-memory",
        "list",
        r"oom[_-]kill|: Out Of Memory|cgroup out-of-memory handler|Out of memory: Killed process|OOM Killed"
        r"|(?<!CUDA_ERROR_)OUT_OF_MEMORY\b"
        r"|out of memory: Killed process|std::bad_alloc|Cannot allocate memory|\bMemoryError\b"
        r"|[Cc]an't allocate memory"
        r"|Exceeded job memory limit|exceeded memory limit.{0,40}being killed",
        "the host ran out of memory",
        "ask Slurm for more memory, or start fewer servers on a node at a time",
    ),
    row(
        "credential",
        "Slurm",
        r"[Jj]ob credential expired|Invalid job credential|Error generating job credential"
        r"|Job credential (?:revoked|replayed)"
        r"|Credential (?:replayed|signature check)|[Rr]eplayed credential|If munged is up"
        r"|Munge (?:en|de)code failed|Expired credential|Rewound credential"
        r"|Unable to (?:connect|contact) (?:to )?munge",
        "Slurm's credential for the step was not valid on the node: clocks differ, or the step started too late",
        "have the clocks of the nodes and munge checked; run again, without that node if it is always the same",
    ),
    row(
        "memory-options",
        "Slurm",
        r"SLURM_MEM_PER_CPU, SLURM_MEM_PER_GPU|--mem, --mem-per-cpu,? and --mem-per-gpu are mutually exclusive"
        r"|mem-per-gpu.{0,40}mutually exclusive|Memory specification can not be satisfied",
        "two of Slurm's memory options are set at once, one of them inherited from the job's environment",
        "keep one of mem, mem-per-cpu and mem-per-gpu, and unset the other SLURM_MEM_PER_... in the job",
    ),
    row(
        "gres",
        "Slurm",
        r"Invalid generic resource|Invalid Trackable RESource|Requested GRES option unsupported",
        "Slurm does not know the GPUs that were asked for",
        "set slurm.gpus in the cluster profile to what the partition has (sinfo -o %G)",
    ),
    row(
        "account",
        "Slurm",
        r"Invalid account or account/partition|Invalid qos specification|invalid partition specified"
        r"|Invalid partition name specified|violates accounting/QOS policy"
        r"|User's group not permitted to use this partition"
        r"|AssocMax\w+Limit|QOSMax\w+Limit",
        "Slurm does not let this account, QOS or partition run the job",
        "check account, partition, qos and limits in the cluster profile (sacctmgr show assoc user=$USER)",
    ),
    row(
        "controller",
        "Slurm",
        r"Unable to contact slurm controller|Socket timed out on send/recv operation|slurm_persist_conn_open"
        r"|Unable to connect to slurm daemon|Zero Bytes were transmitted or received",
        "Slurm's controller did not answer",
        "wait and run again; sinfo shows whether it is back",
    ),
    row(
        "prolog",
        "Slurm",
        r"PrologSlurmctld failed|[Pp]rolog (?:failed|error|failure)|launch failed requeued held|Job prolog failed",
        "the site's prolog failed on a node",
        "run again without that node, and report it: sinfo -R shows which",
    ),
    row(
        "mpi-plugin",
        "step",
        r"Couldn't find the specified plugin name for mpi/|can not load PMIx library|Invalid MPI type"
        r"|cannot find mpi plugin",
        "this Slurm does not have the MPI flavour that steps are started with",
        "set slurm.mpi in the cluster profile to one that `srun --mpi=list` names",
    ),
    row(
        "no-pyxis",
        "step",
        r"(?:unrecognized|invalid|unknown) option.{0,10}--(?:no-)?container-",
        "this Slurm cannot start containers: pyxis is not installed",
        "install it, or remove `container` from the cluster profile",
    ),
    quiet(
        row(
            "numactl",
            "step",
            r"numactl.{0,60}(?:No such file|not found)|libnuma: .{0,80}out of range|numactl: .{0,60}invalid"
            r"|setting (?:membind|cpubind|interleave\w*|preferred)\b.{0,20}(?:not permitted|Invalid argument)",
            "numactl is not there or may not be used, or the node has no such NUMA nodes",
            'set numactl in the cluster profile, "" for none; in a container it needs CAP_SYS_NICE',
        )
    ),
    row(
        "cpu-binding",
        "srun",
        r"CPU binding outside of job step allocation|slurmstepd\S*: error: .{0,40}sched_setaffinity",
        "a step is bound to cores that its job does not have",
        "unset SLURM_CPU_BIND, which the job inherited, and check slurm.srun of the cluster profile for --cpu-bind",
    ),
    row(
        "step-refused",
        "step",
        r"Unable to create step|More processors requested than permitted|Requested node configuration"
        r"|Memory required by task is not available|Requested nodes are not in this (?:job|allocation)",
        "Slurm could not start the server's step",
        "see the srun line; slurm.gpus, slurm.tasks and slurm.srun of the cluster profile decide what is asked for",
        rank="suspect",
    ),
    row(
        "slurm-refused",
        "Slurm",
        r"srun: fatal: |sbatch: fatal: |Batch job submission failed|Unable to allocate resources",
        "Slurm refused the options of the job or of a step",
        "see the line of srun or sbatch; `slurm` of the cluster profile has them",
        rank="suspect",
    ),
    row(
        "step-launch",
        "Slurm",
        r"Task launch for .{0,60}failed on node|Application launch failed|task \d+ launch failed",
        "Slurm could not start a task on a node",
        "see the srun line for the node and the reason; run again without it",
        rank="suspect",
    ),
    row(
        "revoked",
        "Slurm",
        r"[Jj]ob allocation \d+ has been revoked|Unable to confirm allocation|Force Terminated job"
        r"|Job/step already completing or completed",
        "Slurm took the allocation back",
        "see the job's state and reason (sacct -j JOB): cancelled, preempted, timed out, or a node that failed",
        rank="end",
    ),
    ordinary(
        row(
            "step-ended",
            "list",
            r"slurmstepd(?:-[\w.-]+)?: error(?!: couldn't chdir|: Unable to create TMPDIR|: Setting TMPDIR)"
            r"|srun: error: .{0,60}: (?:Exited with exit code (?!137)|Terminated)"
            r"|CANCELLED AT \d{4}-|Signal \d+ received|: User defined signal",
            "Slurm ended the step",
            "see the slurmstepd line",
            rank="end",
        )
    ),
)

CONTAINER: tuple[KnownFailure, ...] = (
    row(
        "image-rate-limit",
        "registry",
        r"returned error code: 429 |toomanyrequests: |reached your (?:unauthenticated )?pull rate limit",
        "the registry hands out no more images to this address for now",
        "import the image to a .sqsh file once (container.image), or put credentials into "
        "~/.config/enroot/.credentials",
    ),
    row(
        "image-registry",
        "pyxis",
        r"pyxis: .{0,200}(?:curl: \(\d+\)|Could not process JSON input|SSL certificate problem|Connection timed out)"
        r"|x509: certificate signed by unknown authority",
        "the image's registry cannot be reached from the node, or something else answers for it",
        "check the registry's name, proxy and certificates on the node, or import the image to a .sqsh file once",
    ),
    row(
        "wrong-architecture",
        "machine",
        r"Exec format error|no matching manifest for linux/|cannot execute binary file",
        "the image or program is of another processor architecture than the node (x86-64, or Arm as on Grace)",
        "use an image of the node's architecture (enroot import -a aarch64, or x86_64)",
    ),
    row(
        "image-access",
        "pyxis",
        r"pyxis: .{0,200}(?:401 Unauthorized|403 Forbidden|Authentication failed|returned error code: 40[13])"
        r"|returned error code: 40[134] |unauthorized: authentication required"
        r"|denied: requested access to the resource"
        r"|manifest unknown|pull access denied",
        "the registry does not hand out the image: no such image, or no right to it",
        "check container.image; put the registry's credentials into ~/.config/enroot/.credentials, or import the "
        "image to a .sqsh file once",
    ),
    row(
        "container-mount",
        "pyxis",
        r"Invalid --container-mounts argument|enroot-mount: failed to mount|couldn't mount .{0,80}"
        r"|error mounting .{0,120}|invalid mount config|bind source path does not exist",
        "a folder that is mounted into the container is not there on the node",
        "check container.mounts in the cluster profile on the node itself",
    ),
    row(
        "container-image-file",
        "pyxis",
        r"pyxis: .{0,160}(?:\.sqsh|squashfs).{0,60}No such file|No such file or directory: \S+\.sqsh"
        r"|Invalid image format|Could not (?:open|stat) \S+\.sqsh|invalid squashfs",
        "the container image is not where the profile says, or is damaged",
        "check container.image on the node itself",
    ),
    ordinary(
        row(
            "container",
            "list",
            r"slurmstepd: error: pyxis:|error: pyxis: |pyxis:.{0,200}(?:fail|error|couldn't|No such)"
            r"|spank: required plugin \S*pyxis|enroot-nsenter: |enroot-switchroot: "
            r"|spank: Failed to initialize plugin stack|Plugin stack initialization failed"
            r"|docker: Error response from daemon"
            r"|OCI runtime create failed|FATAL:.{0,60}(?:container|image)",
            "the container could not be started",
            "see the pyxis lines; check the image and its mounts",
            rank="suspect",
        )
    ),
)

MACHINE: tuple[KnownFailure, ...] = (
    row(
        "port",
        "list",
        r"Failed to bind socket|\[Errno 98\]|[Aa]ddress already in use|EADDRINUSE|bind: port .{0,20}in use"
        r"|[Pp]ort \d+ is already (?:in use|allocated)",
        "a port is in use by another program (the port is taken on that node)",
        "stop it, or set another port_base in the cluster profile",
    ),
    row(
        "disk-full",
        "machine",
        r"No space left on device|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]|ENOSPC",
        "a disk is full, or its quota is used up",
        "make room there, or point caches (HF_HOME, TRITON_CACHE_DIR, VLLM_CACHE_ROOT, ENROOT_CACHE_PATH) elsewhere",
    ),
    row(
        "read-only",
        "machine",
        r"\[Errno 30\]|Read-only file system|EROFS",
        "a folder that is written to is on a file system that can only be read (a mount of the container, mostly)",
        "mount it for writing, or point caches (HF_HOME, TRITON_CACHE_DIR, VLLM_CACHE_ROOT) to a folder that can be "
        "written to",
        rank="suspect",
    ),
    row(
        "open-files",
        "machine",
        r"Too many open files|\[Errno 24\]|EMFILE",
        "a process may not open more files or connections",
        "raise the limit of open files (ulimit -n)",
    ),
    row(
        "process-limit",
        "machine",
        r"can't start new thread|pthread_create.{0,60}(?:failed|unavailable)|fork: retry: Resource temporarily"
        r"|fork: Resource temporarily unavailable|OpenBLAS blas_thread_init|fork rejected by pids controller"
        r"|fork: retry: No child processes",
        "a user may not start more processes or threads on that node",
        "raise the limits of processes and tasks (ulimit -u, the cgroup's pids.max)",
    ),
    row(
        "permission",
        "machine",
        r"\[Errno 13\] Permission denied|PermissionError:|execve\(\): .{0,120}Permission denied"
        r"|cannot create directory .{0,120}Permission denied",
        "a file or folder may not be read or written by this user",
        "see the path in the line; inside containers HOME and caches are often not writable",
    ),
    row(
        "file-system",
        "machine",
        r"Stale file handle|\[Errno 116\]|\[Errno 5\] Input/output error|Transport endpoint is not connected"
        r"|Cannot send after transport endpoint shutdown|Remote I/O error: '",
        "the file system under the model or the results failed",
        "run again, without that node if it is always the same; have the mount checked",
    ),
    row(
        "command-missing",
        "step",
        r"execve\(\): .{0,120}No such file|: command not found|env: .{0,40}: No such file or directory",
        "the image (or the node) does not have the command that was to be started",
        "check container.image, or `command` and `launcher` in the cluster profile; `doctor --probe` shows what is "
        "there",
    ),
    row(
        "library",
        "Python",
        r"undefined symbol: |cannot open shared object file|version `(?:GLIBC|GLIBCXX|CXXABI)_|DLL load failed"
        r"|ABI mismatch|binary incompatibility",
        "a library is missing, or two libraries do not fit each other",
        "use the engine's own image unchanged; look for other libraries in LD_LIBRARY_PATH and PYTHONPATH",
        rank="suspect",
    ),
    row(
        "module-missing",
        "Python",
        r"ModuleNotFoundError: |backend is not available or outdated|No module named "
        r"|ImportError: cannot import name",
        "a Python module is missing, or of another version",
        "see its name in the line; use the engine's own image, without the PYTHONPATH of the login shell",
        rank="suspect",
    ),
    row(
        "options-file",
        "YAML",
        r"yaml\.(?:scanner|parser|composer|constructor|reader)\.\w+Error",
        "a file of options is no YAML that can be read",
        "see its name and line below; `ratematch render` writes the files that servers are started with",
    ),
    row(
        "spawn-idiom",
        "Python",
        r"attempt has been made to start a new process before|process has finished its bootstrapping phase",
        "the script that starts the server does so outside `if __name__ == '__main__'`, so it has no children",
        "start the server by its own command, or put the start into that block",
    ),
    row(
        "bus-error",
        "machine",
        r"Bus error|SIGBUS",
        "a process touched memory that is not there: /dev/shm, or the file system of the weights, ran out or is gone",
        "give the container a larger /dev/shm, and check the mount of the model",
        rank="suspect",
    ),
    row(
        "file-missing",
        "Python",
        r"FileNotFoundError: ",
        "a file that the server needs is not there",
        "see its path in the line, and whether it is mounted into the container",
        rank="suspect",
    ),
    row(
        "crash",
        "list",
        r"Segmentation fault|SIGSEGV|\(core dumped\)|Fatal Python error|SIGABRT|double free or corruption"
        r"|malloc\(\): |free\(\): invalid|corrupted (?:top size|size vs|double-linked)|stack smashing detected",
        "the server crashed (segmentation fault or abort)",
        "see its log",
        rank="general",
    ),
    row(
        "cublas",
        "CUDA",
        r"CUBLAS_STATUS_NOT_INITIALIZED",
        "cuBLAS could not start on a GPU, mostly because no memory is left there",
        "leave more of the GPU's memory free, or see the lines before it",
        rank="general",
    ),
    row(
        "killed",
        "machine",
        r"exitcode: -9\b|Failed core proc\(s\): .{0,80}: -9\b",
        "a process was killed from outside, mostly because the host ran out of memory",
        "see the kernel's log (dmesg) and the job's memory; ask Slurm for more",
        rank="suspect",
    ),
    ordinary(
        row(
            "killed",
            "machine",
            r"exit code 137|[Kk]illed by signal 9|signal SIGKILL|: Killed$|exit code -9\b",
            "a process was killed from outside, mostly because the host ran out of memory",
            "see the kernel's log (dmesg) and the job's memory; ask Slurm for more",
            rank="end",
        )
    ),
    row(
        "exception",
        "list",
        r"Traceback \(most recent call last\)|terminate called (?:after|without)",
        "the server ended with an exception that is not known here",
        "see the traceback in its log",
        rank="end",
    ),
)

MODEL: tuple[KnownFailure, ...] = (
    row(
        "gated-model",
        "Hugging Face",
        r"access a gated repo|Cannot access gated repo|GatedRepoError|Access to model .{0,120}is restricted"
        r"|awaiting a review from the repo authors|401 Client Error.{0,120}huggingface\.co|Invalid user token"
        r"|Invalid credentials in Authorization header|Invalid username or password",
        "the model is gated: the servers have no token with access to it",
        "give HF_TOKEN of an account that was granted access, or the folder of a downloaded checkpoint",
    ),
    row(
        "model-missing",
        "Hugging Face",
        r"Repo id must (?:be in the form|use)|Invalid model path"
        r"|is not a local folder and is not a valid model identifier"
        r"|Incorrect path_or_model_id"
        r"|Invalid repository ID or local directory|does not appear to have a file named"
        r"|Can't load the configuration of"
        r"|RepositoryNotFoundError|RevisionNotFoundError|Revision Not Found for url"
        r"|Entry Not Found for url: \S{0,200}/config\.json|No such file or directory: '[^']*config\.json'"
        r"|[Mm]odel path .{0,160}(?:does not exist|not found)"
        r"|No such file or directory: '[^']*(?:models?|weights|checkpoints?|ckpt)/[^']*'"
        r"|[Mm]odel .{0,160}does not exist"
        r"|[Mm]odel (?:directory|folder) .{0,160}(?:does not exist|not found)|Repository Not Found for url"
        r"|Failed to load config from|config\.json.{0,40}(?:not found|does not exist)",
        "there is no model where the sweep says (model path missing)",
        "give the folder of the checkpoint (model.path), or model_paths in the cluster profile, and mount it",
    ),
    row(
        "hub-unreachable",
        "Hugging Face",
        r"couldn't connect to 'https://huggingface\.co'|LocalEntryNotFoundError|OfflineModeIsEnabled"
        r"|outgoing traffic has been disabled|Cannot find the requested files in the local cache"
        r"|429 Client Error|Max retries exceeded with url|Connection to huggingface\.co timed out|CAS service error",
        "the model is not on the node's disk, and the model hub cannot be reached from there",
        "download it once and give its folder (model.path or HF_HOME)",
    ),
    row(
        "unknown-architecture",
        "model",
        r"CONFIG_MAPPING\[|Unknown architecture for|Unsupported (?:model )?architecture"
        r"|Transformers does not recognize this architecture"
        r"|Model architectures? .{0,120}(?:not supported|failed to be inspected)"
        r"|Unrecognized (?:model|configuration class)"
        r"|[Nn]o model architectures are specified|architecture \S+ is not supported",
        "this version of the engine does not know the model's architecture",
        "use a newer engine (and transformers), or another checkpoint",
    ),
    row(
        "gpu-capability",
        "model",
        r"only supported on GPUs with compute capability|[Rr]equires? (?:a )?(?:compute|device|GPU) capability"
        r"|is not supported on (?:this|your) (?:GPU|device|hardware)|is only supported on (?:Hopper|Blackwell|SM|sm_)"
        r"|not supported on SM ?\d|Unsupported SM\b|Unsupported GPU architecture|requires SM ?\d"
        r"|No valid attention backend found",
        "this kind of GPU lacks what the configuration asks for",
        "choose another number format, attention or MoE backend, or other GPUs",
    ),
    row(
        "weights-damaged",
        "model",
        r"Consistency check failed|Error while deserializing header|MetadataIncompleteBuffer|HeaderTooLarge"
        r"|InvalidHeaderDeserialization"
        r"|PytorchStreamReader failed|invalid load key, '|incomplete metadata, file not fully covered"
        r"|not a valid safetensors file",
        "a weight file of the checkpoint is damaged or only half there",
        "download it again; a file of a few hundred bytes is a Git LFS pointer",
    ),
    row(
        "weights-missing",
        "model",
        r"Cannot find any model weights|no file named .{0,160}in directory"
        r"|No such file or directory: .{0,160}\.safetensors|[Nn]o safetensors (?:weights|files)"
        r"|[Nn]o (?:weight|checkpoint) files? found"
        r"|Following weights were not initialized|No \.safetensors",
        "the folder of the model holds no weights, or not all of them",
        "check the checkpoint's folder on the node; load_format: dummy needs none",
    ),
    row(
        "weights-mismatch",
        "model",
        r"(?:size|shape) mismatch for|KeyError: '(?:model|lm_head|transformer)\."
        r"|The size of tensor a \(\d+\) must match"
        r"|Attempted to load weight \(|Weight shape mismatch",
        "the weights do not fit what the engine expects of this model",
        "check that checkpoint, quantisation and parallelism are a set that the engine supports",
    ),
    row(
        "remote-code",
        "model",
        r"`trust_remote_code=True`|contains custom code which must be executed"
        r"|requires you to execute the configuration file",
        "the model brings its own code, which the server may not run",
        "set trust_remote_code: true",
    ),
    row(
        "tokenizer",
        "model",
        r"Can't load tokenizer for|Couldn't instantiate the backend tokenizer|Tokenizer class .{0,80}does not exist"
        r"|Failed to load (?:the )?tokenizer",
        "the tokenizer of the model cannot be loaded",
        "check tokenizer files of the checkpoint's folder, and the version of transformers",
    ),
    row(
        "quantization",
        "model",
        r"[Uu]nknown quantization method|quantization method .{0,120}is not supported|[Mm]inimum capability: \d+"
        r"|Unsupported quantization|is not divisible by weight quantization block|quantization .{0,60}does not match"
        r"|FP4.{0,60} requires |FP4.{0,60} not supported|quant_algo .{0,60}not supported",
        "the checkpoint's quantisation does not fit the GPU, the engine or tp",
        "use a checkpoint for this GPU (FP8 from Hopper on, FP4 from Blackwell on), or another tp",
    ),
)

SITE: tuple[KnownFailure, ...] = (*CUDA, *NCCL, *TRANSFER, *MPI, *SLURM, *CONTAINER, *MODEL, *MACHINE)
"""All of them."""
