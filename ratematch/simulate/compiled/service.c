/* A whole deployment and its client in virtual time, as ratematch/simulate/{service,load}.py have it. Optional: the plain
 * code gives the same figures, to the bit. Built by ratematch/simulate/compiled/build.py, called by bindings.py. */

#include "scheduler.h"

enum { OPEN, ANSWERED_WHOLE, REFUSED_BY_CTX, REFUSED_BY_GEN, KV_GONE };
enum { ENDED, STARVED, GATE_STUCK, STEP_FAILED };
enum { ROUND_ROBIN, FEWEST_REQUESTS, FEWEST_TOKENS };

typedef struct {
    i64 isl, osl, front, ctx, gen, ctx_seq, gen_seq;
    double transfer, intended, sent, end, first;
    i64 outcome, hops, tokens, iterations, chunk_start, chunk_count, held;
} Request;

/* Servers of one role, from number `first` on, and an orchestrator's router of them. `weights`: what each has in flight,
 * as it counts, and `order`: its place among those servers. */
typedef struct {
    i64 first, count, mode, next, *weights, *order;
} Role;

/* An orchestrator, and until when it reads the requests before. */
typedef struct {
    Role ctx, gen;
    double door;
} Front;

typedef i64 (*More)(void);

struct Service {
    double hop, request, token, serving;
    i64 orchestrated, max_local_prefill, fronts, turn, requests, requests_room, chunks, chunks_room, waiting_room;
    Front *front;
    Request *request_of;
    i64 *chunk;
    /* the client of the load that runs */
    const i64 *lengths;
    const double *transfers;
    i64 drawn, used, first, sent, done, most, slots, due, most_allowed, open_loop, waiting_first, waiting_count;
    double last_send, *waiting;
    More more;
};
typedef struct Service Service;

static void send_next(Simulation *sim, double free_s);

static i64 pick(Role *role, const Request *request)
{
    if (role->mode == ROUND_ROBIN) return role->first + role->order[role->next++ % role->count];
    i64 best = 0;
    for (i64 k = 1; k < role->count; k++)
        if (role->weights[k] < role->weights[best]) best = k;
    role->weights[best] += role->mode == FEWEST_TOKENS ? request->isl : 1;
    return role->first + role->order[best];
}

static void give_back(Role *role, i64 server, const Request *request)
{
    if (role->mode == ROUND_ROBIN) return;
    i64 place = 0;
    while (role->order[place] != server - role->first) place++;
    role->weights[place] -= role->mode == FEWEST_TOKENS ? request->isl : 1;
}

/* The request is read by a process after those that came before it; `kind` happens `more` seconds later. */
static void enter(Simulation *sim, double *door, i64 number, int kind, double more)
{
    Service *service = sim->service;
    double begin_s = sim->line.now + service->hop;
    if (*door > begin_s) begin_s = *door;
    *door = begin_s + service->request + (double)service->request_of[number].isl * service->token;
    at(&sim->line, *door + more, kind, number, 0, 0);
}

static void after(Simulation *sim, i64 hops, int kind, i64 number)
{
    at(&sim->line, sim->line.now + (double)hops * sim->service->hop, kind, number, 0, 0);
}

static void fail(Simulation *sim, i64 hops, int outcome, i64 number)
{
    Request *request = &sim->service->request_of[number];
    request->end = sim->line.now + (double)hops * sim->service->hop;
    request->outcome = outcome;
    after(sim, hops, outcome == REFUSED_BY_CTX ? REFUSED : REPLY, number);
}

/* Queue a sequence of a request at a server; its number, or -1: it can never run there. */
static i64 submit(Simulation *sim, i64 index, i64 number, int kind, int expects)
{
    Server *server = &sim->server[index];
    const Request *request = &sim->service->request_of[number];
    i64 most = server->limits.limit - request->isl, wanted = most < request->osl ? most : request->osl;
    i64 max_tokens = kind == CONTEXT_ONLY ? 1 : wanted;
    Sequence seq = {.id = ++server->next_id, .request = number, .prompt = request->isl, .max_tokens = max_tokens, .rank = -1,
                    .ready = sim->line.now, .transfer = expects ? request->transfer : 0.0, .kind = kind, .state = QUEUED};
    if (refused(&server->limits, &seq)) return -1;
    sim->seq = grown(sim->seq, &sim->sequences_room, sim->sequences + 1, sizeof(Sequence));
    sim->seq[sim->sequences] = seq;
    enqueue(&server->waiting, sim->sequences);
    if (expects) enqueue(&server->expecting, sim->sequences);
    changed(sim, index);
    return sim->sequences++;
}

static void to_generation(Simulation *sim, i64 number)
{
    Service *service = sim->service;
    Request *request = &service->request_of[number];
    request->gen = pick(&service->front[request->front].gen, request);
    request->hops = 2;
    enter(sim, &sim->server[request->gen].door, number, GENERATE, 0.0);
}

static void forward(Simulation *sim, i64 number)
{
    Service *service = sim->service;
    Request *request = &service->request_of[number];
    Role *ctx = &service->front[request->front].ctx;
    if (!ctx->count || (service->max_local_prefill >= 0 && request->isl <= service->max_local_prefill)) {
        to_generation(sim, number);
        return;
    }
    request->ctx = pick(ctx, request);
    enter(sim, &sim->server[request->ctx].door, number, COMPUTE, 0.0);
}

static void compute(Simulation *sim, i64 number)
{
    Request *request = &sim->service->request_of[number];
    request->ctx_seq = submit(sim, request->ctx, number, CONTEXT_ONLY, 0);
    if (request->ctx_seq >= 0) return;
    give_back(&sim->service->front[request->front].ctx, request->ctx, request);
    fail(sim, 2, REFUSED_BY_CTX, number);
}

static void generate(Simulation *sim, i64 number)
{
    Request *request = &sim->service->request_of[number];
    int whole = !sim->service->orchestrated || (sim->service->front[request->front].ctx.count && request->ctx < 0);
    request->gen_seq = submit(sim, request->gen, number, whole ? FULL : GENERATION_ONLY, request->ctx >= 0);
    if (request->gen_seq < 0) fail(sim, request->hops, REFUSED_BY_GEN, number);
}

/* A sequence whose KV cache lies elsewhere got its place. */
static void begun(Simulation *sim, i64 server, i64 seq)
{
    i64 number = sim->seq[seq].request;
    Request *request = &sim->service->request_of[number];
    if (!request->held) {
        cancel_transfer(sim, server, seq);
        fail(sim, request->hops, KV_GONE, number);
        return;
    }
    request->held = 0;
    at(&sim->line, sim->line.now + sim->seq[seq].transfer, RELEASE, number, 0, 0);
}

static void keep_chunk(Service *service, double when)
{
    service->chunk = grown(service->chunk, &service->chunks_room, service->chunks + 1, sizeof(i64));
    service->chunk[service->chunks++] = (i64)rint(when * 1e9);
}

/* When the events of a stream reach the client: with the first token, at every `interval`-th iteration, with the last. */
static void keep_chunks(Service *service, const Server *server, const Sequence *seq, Request *request)
{
    int whole = seq->kind == FULL;
    i64 steps = seq->last_iter ? seq->last_iter - seq->first_iter + 1 : 0, interval = server->limits.interval;
    double late = (double)request->hops * service->hop;
    const double *ends = server->ends + seq->first_iter;
    request->chunk_start = service->chunks;
    if (whole) keep_chunk(service, request->first + late);
    i64 due = (interval - 2 % interval) % interval, last = -1;
    if (!whole && due > 0 && steps) keep_chunk(service, ends[last = 0] + late);
    for (; due < steps; due += interval) keep_chunk(service, ends[last = due] + late);
    if (steps && last != steps - 1) keep_chunk(service, ends[steps - 1] + late);
    request->chunk_count = service->chunks - request->chunk_start;
    request->iterations = 1 + steps;
}

static void emitted(Simulation *sim, i64 index, Sequence *seq, int first, int finished)
{
    Service *service = sim->service;
    const Server *server = &sim->server[index];
    Request *request = &service->request_of[seq->request];
    if (seq->kind == CONTEXT_ONLY) {
        request->held = 1;
        if (server->limits.timeout_s >= 0)
            at(&sim->line, sim->line.now + server->limits.timeout_s, EXPIRE, seq->request, 0, 0);
        after(sim, 1, ANSWERED, seq->request);
        return;
    }
    if (first) request->first = sim->line.now;
    if (!finished) return;
    keep_chunks(service, server, seq, request);
    request->tokens = seq->max_tokens;
    request->end = sim->line.now + (double)request->hops * service->hop;
    request->outcome = ANSWERED_WHOLE;
    after(sim, request->hops, REPLY, seq->request);
}

/* ---------------------------------------------------------------------------------------------------- the client */

static int send_one(Simulation *sim, double intended)
{
    Service *service = sim->service;
    if (service->used == service->drawn) {
        service->drawn = service->more ? service->more() : 0;
        service->used = 0;
        if (!service->drawn) return 0;
    }
    i64 number = service->requests, place = service->used++;
    service->request_of = grown(service->request_of, &service->requests_room, number + 1, sizeof(Request));
    service->requests++;
    service->request_of[number] = (Request){.isl = service->lengths[2 * place], .osl = service->lengths[2 * place + 1],
                                            .ctx = -1, .ctx_seq = -1, .gen_seq = -1, .transfer = service->transfers[place],
                                            .intended = intended, .sent = sim->line.now, .hops = 1};
    service->sent++;
    if (service->sent - service->done > service->most) service->most = service->sent - service->done;
    if (service->orchestrated) {
        i64 front = service->request_of[number].front = service->turn++ % service->fronts;
        enter(sim, &service->front[front].door, number, FORWARD, service->serving);
    } else
        enter(sim, &sim->server[0].door, number, GENERATE, service->serving);
    return 1;
}

static void send_next(Simulation *sim, double free_s)
{
    if (free_s >= sim->service->last_send || !send_one(sim, free_s)) sim->service->slots--;
}

static void due(Simulation *sim, double due_s)
{
    Service *service = sim->service;
    service->due--;
    if (!service->most_allowed || service->sent - service->done < service->most_allowed) {
        send_one(sim, due_s);
        return;
    }
    i64 place = service->waiting_first + service->waiting_count++;
    service->waiting = grown(service->waiting, &service->waiting_room, place + 1, sizeof(double));
    service->waiting[place] = due_s;
}

static void reply(Simulation *sim)
{
    Service *service = sim->service;
    service->done++;
    if (!service->open_loop)
        send_next(sim, sim->line.now);
    else if (service->waiting_count) {
        service->waiting_count--;
        send_one(sim, service->waiting[service->waiting_first++]);
    }
}

static void happen(Simulation *sim, const Event *event)
{
    Service *service = sim->service;
    i64 who = event->who;
    Request *request = event->kind >= FORWARD && event->kind <= RELEASE ? &service->request_of[who] : NULL;
    switch (event->kind) {
    case NEXT: send_next(sim, event->when); break;
    case DUE: due(sim, event->when); break;
    case FORWARD: forward(sim, who); break;
    case COMPUTE: compute(sim, who); break;
    case GENERATE: generate(sim, who); break;
    case ANSWERED:
        give_back(&service->front[request->front].ctx, request->ctx, request);
        to_generation(sim, who);
        break;
    case REPLY:
        if (service->orchestrated) give_back(&service->front[request->front].gen, request->gen, request);
        reply(sim);
        break;
    case REFUSED: reply(sim); break;
    case EXPIRE:
        if (request->held) {
            request->held = 0;
            release(sim, request->ctx, request->ctx_seq);
        }
        break;
    case RELEASE: release(sim, request->ctx, request->ctx_seq); break;
    case BEGIN: begin(sim, who); break;
    case FINISH: finish(sim, who, event->version); break;
    }
}

/* ---------------------------------------------------------------------------------------------------- from Python */

static void *fresh(i64 count, size_t size)
{
    void *block = calloc(count > 0 ? (size_t)count : 1, size);
    if (!block) {
        fputs("ratematch: no memory left for the simulation\n", stderr);
        abort();
    }
    return block;
}

static Role role_of(i64 first, i64 count, const i64 *router, const i64 *order)
{
    Role role = {first, count, router[0], router[1], fresh(count, sizeof(i64)), fresh(count, sizeof(i64))};
    for (i64 k = 0; k < count; k++) role.order[k] = order[k];
    return role;
}

/* `numbers`: hop_s, request_s, token_s, serving_s, and the clock. `shape`: orchestrated, max_local_prefill, first and count
 * of ctx and gen servers, orchestrators; and of each mode and next server of its ctx router, then of its gen router, then
 * the order in which the one knows its servers, then the other. */
Simulation *simulation_new(i64 servers, const Limits *limits, const i64 *shape, const double *numbers, StepTime step_time)
{
    Simulation *sim = fresh(1, sizeof(Simulation));
    Service *service = sim->service = fresh(1, sizeof(Service));
    sim->servers = servers;
    sim->server = fresh(servers, sizeof(Server));
    sim->step_time = step_time;
    sim->stuck = -1;
    service->hop = numbers[0], service->request = numbers[1], service->token = numbers[2];
    service->serving = numbers[3], sim->line.now = numbers[4];
    service->orchestrated = shape[0], service->max_local_prefill = shape[1];
    service->fronts = shape[6];
    service->front = fresh(service->fronts, sizeof(Front));
    const i64 *router = shape + 7;
    for (i64 place = 0; place < service->fronts; place++) {
        const i64 *order = router + 4;
        service->front[place].ctx = role_of(shape[2], shape[3], router, order);
        service->front[place].gen = role_of(shape[4], shape[5], router + 2, order + shape[3]);
        router = order + shape[3] + shape[5];
    }
    for (i64 index = 0; index < servers; index++) {
        Server *server = &sim->server[index];
        i64 ranks = limits[index].ranks;
        server->limits = limits[index];
        server->rank = fresh(ranks, sizeof(Rank));
        server->loads = fresh(2 * KIND_FIELDS * ranks, sizeof(i64));
        server->more = fresh(KIND_FIELDS * ranks, sizeof(i64));
        server->gate_open = server->limits.gate < 0;
        server->asleep = 1;
        server->ends = grown(NULL, &server->ends_room, 1, sizeof(double));
        server->ends[0] = 0.0;
        server->ends_count = 1;
        ahead_place(server, 0, 256);
    }
    return sim;
}

void simulation_free(Simulation *sim)
{
    Service *service = sim->service;
    for (i64 index = 0; index < sim->servers; index++) {
        Server *server = &sim->server[index];
        for (i64 rank = 0; rank < server->limits.ranks; rank++) free(server->rank[rank].prefill.items);
        free(server->rank), free(server->waiting.items), free(server->expecting.items), free(server->arrivals);
        free(server->ends), free(server->growth), free(server->end_first), free(server->gains);
        free(server->loads), free(server->more);
    }
    for (i64 place = 0; place < service->fronts; place++) {
        free(service->front[place].ctx.weights), free(service->front[place].gen.weights);
        free(service->front[place].ctx.order), free(service->front[place].gen.order);
    }
    free(service->front), free(service->request_of), free(service->chunk);
    free(service->waiting), free(service), free(sim->server), free(sim->seq), free(sim->line.heap), free(sim);
}

/* Run one load to its end. `lengths`: prompt and answer tokens of `drawn` requests, with `transfers` in seconds; `more`
 * draws further ones to the same place. `due_s`: when each request is due, of an open loop; else NULL. */
int simulation_run(Simulation *sim, const i64 *lengths, const double *transfers, i64 drawn, More more, i64 slots,
                   double seconds, double stagger, const double *due_s, i64 dues, i64 most_allowed)
{
    Service *service = sim->service;
    double start = sim->line.now;
    service->lengths = lengths, service->transfers = transfers, service->drawn = drawn, service->more = more;
    service->used = service->sent = service->done = service->most = service->chunks = 0;
    service->waiting_first = service->waiting_count = 0;
    service->first = service->requests;
    service->slots = slots, service->due = dues, service->most_allowed = most_allowed;
    service->open_loop = due_s != NULL;
    service->last_send = seconds > 0 ? start + seconds : INFINITY;
    for (i64 slot = 0; slot < slots; slot++)
        at(&sim->line, start + (double)slot * stagger / (double)slots, NEXT, slot, 0, 0);
    for (i64 each = 0; each < dues; each++) at(&sim->line, start + due_s[each], DUE, each, 0, 0);
    while (sim->line.count) {
        Event event = pop(&sim->line);
        sim->line.now = event.when;
        happen(sim, &event);
        if (sim->failed) return STEP_FAILED;
        if (sim->stuck >= 0) return GATE_STUCK;
        if (service->done == service->sent && !(service->slots || service->due || service->waiting_count)) return ENDED;
    }
    return service->done == service->sent && !(service->slots || service->due || service->waiting_count) ? ENDED : STARVED;
}

/* Of the last load: requests sent, most in flight, chunks, the server that is stuck, how many wait there; `now`: the clock. */
void simulation_counts(const Simulation *sim, i64 *counts, double *now)
{
    const Service *service = sim->service;
    counts[0] = service->requests - service->first;
    counts[1] = service->most;
    counts[2] = service->chunks;
    counts[3] = sim->stuck;
    counts[4] = sim->stuck < 0 ? 0 : sim->server[sim->stuck].waiting.count;
    counts[5] = service->done;
    *now = sim->line.now;
}

/* Requests of the last load, 12 numbers each, and its chunks, in ns. */
void simulation_read(const Simulation *sim, i64 *rows, i64 *chunks)
{
    const Service *service = sim->service;
    for (i64 number = service->first; number < service->requests; number++, rows += 12) {
        const Request *request = &service->request_of[number];
        rows[0] = (i64)rint(request->intended * 1e9);
        rows[1] = (i64)rint(request->sent * 1e9);
        rows[2] = (i64)rint(request->end * 1e9);
        rows[3] = request->isl, rows[4] = request->osl, rows[5] = request->outcome;
        rows[6] = request->tokens, rows[7] = request->iterations;
        rows[8] = request->chunk_start, rows[9] = request->chunk_count;
        rows[10] = request->outcome == REFUSED_BY_CTX ? request->ctx : request->gen;
        rows[11] = request->ctx_seq < 0 ? 0 : sim->seq[request->ctx_seq].id;
    }
    memcpy(chunks, service->chunk, (size_t)service->chunks * sizeof(i64));
}

/* What a server counted: iterations, sequences completed and cancelled, tokens accepted and drafted; its busy seconds. */
void simulation_server(const Simulation *sim, i64 index, i64 *counts, double *busy)
{
    const Server *server = &sim->server[index];
    counts[0] = server->iter, counts[1] = server->completed, counts[2] = server->cancelled;
    counts[3] = server->accepted, counts[4] = server->drafted;
    *busy = server->busy;
}
