/* A synthetic OpenAI-compatible server that logs its own truth.
 *
 *     server TTFT_MS TPOT_MS LOG
 *
 * Listens on a free port of the loopback interface and prints it. One thread, epoll, a timerfd for the next chunk that is
 * due, a heap of streams by due instant. Every request streams max_tokens chunks of one token: the first TTFT after
 * the request's first byte came in, the others at absolute distances of TPOT. On SIGTERM it writes LOG, one line a
 * completed request, instants in ns of CLOCK_MONOTONIC (the clock of Python's time.monotonic_ns):
 *
 *     accept first_byte body_complete end write_1 write_2 ...
 *
 * What it cannot do, because the benchmark does not need it: TLS, pipelining, request bodies sent in chunks.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define AT_ONCE 16 /* chunks written between two looks at the sockets, so that a first byte is seen in time */

typedef struct {
    int64_t accept, first, body, end, *writes;
    int count, room;
} Truth;

typedef struct {
    int fd, stream, chat, tokens, left, prompt, place; /* place: in the heap, -1 outside */
    int64_t accepted, due;
    char *in, *out;
    size_t in_size, in_room, out_size, out_done, out_room;
    Truth truth;
} Conn;

static int64_t ttft_ns, tpot_ns;
static int poll_fd;
static Conn **heap;
static int heap_size, heap_room;
static Truth *done;
static size_t done_size, done_room;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *grow(void *at, size_t size) {
    void *p = realloc(at, size);
    if (!p) {
        perror("realloc");
        exit(1);
    }
    return p;
}

/* ---- heap of streams by due instant ---- */

static void put(int k, Conn *c) {
    heap[k] = c;
    c->place = k;
}

static void sift(int k) {
    Conn *c = heap[k];
    while (k > 0 && heap[(k - 1) / 2]->due > c->due) {
        put(k, heap[(k - 1) / 2]);
        k = (k - 1) / 2;
    }
    for (;;) {
        int child = 2 * k + 1;
        if (child >= heap_size) break;
        if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        put(k, heap[child]);
        k = child;
    }
    put(k, c);
}

static void heap_add(Conn *c) {
    if (heap_size == heap_room) heap = grow(heap, sizeof *heap * (size_t)(heap_room = heap_room ? 2 * heap_room : 1024));
    put(heap_size++, c);
    sift(heap_size - 1);
}

static void heap_remove(Conn *c) {
    int k = c->place;
    if (k < 0) return;
    c->place = -1;
    Conn *last = heap[--heap_size];
    if (last != c) {
        put(k, last);
        sift(k);
    }
}

/* ---- output ---- */

static void watch(Conn *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void drop(Conn *c) {
    heap_remove(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c->truth.writes);
    free(c);
}

/* Send or keep; 0 when the connection is gone. */
static int send_bytes(Conn *c, const char *data, size_t size) {
    if (c->out_size == c->out_done) {
        ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return 0;
        if (sent < 0) sent = 0;
        if ((size_t)sent == size) return 1;
        data += sent;
        size -= (size_t)sent;
        c->out_size = c->out_done = 0;
        watch(c, EPOLLIN | EPOLLOUT);
    }
    if (c->out_size + size > c->out_room) c->out = grow(c->out, c->out_room = 2 * (c->out_size + size));
    memcpy(c->out + c->out_size, data, size);
    c->out_size += size;
    return 1;
}

static int flush(Conn *c) {
    while (c->out_done < c->out_size) {
        ssize_t sent = send(c->fd, c->out + c->out_done, c->out_size - c->out_done, MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN;
        c->out_done += (size_t)sent;
    }
    watch(c, EPOLLIN);
    return 1;
}

static int add_chunk(char *at, const char *payload) {
    size_t size = strlen(payload) + 8; /* "data: " and two line ends */
    return sprintf(at, "%zx\r\ndata: %s\n\n\r\n", size, payload);
}

static const char *HEAD =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char *TOKEN =
    "{\"id\":\"cmpl-0123456789abcdef0123\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\","
    "\"choices\":[{\"index\":0,\"text\":\" tok\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null}],"
    "\"usage\":null}";
static const char *CHAT_TOKEN =
    "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\","
    "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" tok\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}";

static void keep_truth(Conn *c, int64_t end) {
    if (done_size == done_room) done = grow(done, sizeof *done * (done_room = done_room ? 2 * done_room : 1024));
    c->truth.end = end;
    done[done_size++] = c->truth;
    memset(&c->truth, 0, sizeof c->truth);
}

/* The next token of a stream; 0 when the connection is gone. */
static int step(Conn *c) {
    static char chunk[1024], tail[1024];
    static int size, chat_size;
    static char chat_chunk[1024];
    if (!size) {
        size = add_chunk(chunk, TOKEN);
        chat_size = add_chunk(chat_chunk, CHAT_TOKEN);
    }
    Truth *t = &c->truth;
    if (t->count == t->room) t->writes = grow(t->writes, sizeof *t->writes * (size_t)(t->room = t->room ? 2 * t->room : 64));
    t->writes[t->count++] = now_ns();
    if (!send_bytes(c, c->chat ? chat_chunk : chunk, (size_t)(c->chat ? chat_size : size))) return 0;
    c->due = tpot_ns ? c->due + tpot_ns : t->writes[t->count - 1]; /* flat out: everybody in turn */
    if (--c->left) {
        sift(c->place);
        return 1;
    }
    heap_remove(c);
    char usage[256];
    const char *kind = c->chat ? "chat.completion.chunk" : "text_completion";
    sprintf(usage,
            "{\"id\":\"cmpl-0\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"m\",\"choices\":[],"
            "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}}",
            kind, c->prompt, c->tokens, c->prompt + c->tokens);
    int end = add_chunk(tail, usage);
    end += add_chunk(tail + end, "[DONE]");
    end += sprintf(tail + end, "0\r\n\r\n");
    int alive = send_bytes(c, tail, (size_t)end);
    keep_truth(c, now_ns());
    return alive;
}

/* ---- input ---- */

static int number_after(const char *text, const char *key, int otherwise) {
    const char *at = strstr(text, key);
    if (!at) return otherwise;
    at += strlen(key);
    while (*at == ' ' || *at == ':' || *at == '"') at++;
    return isdigit((unsigned char)*at) ? atoi(at) : otherwise;
}

static int says_true(const char *text, const char *key) {
    const char *at = strstr(text, key);
    if (!at) return 0;
    at += strlen(key);
    while (*at == ' ' || *at == ':' || *at == '"') at++;
    return !strncmp(at, "true", 4);
}

static int count_prompt(const char *body) {
    const char *at = strstr(body, "\"prompt\"");
    if (!at) return (int)strlen(body) / 4;
    at += 8;
    while (*at == ' ' || *at == ':') at++;
    if (*at != '[' || at[1] == '"' || at[1] == '[') return (int)strlen(at) / 4;
    int count = 1;
    for (; *at && *at != ']'; at++) count += *at == ',';
    return count;
}

static int answer_json(Conn *c, const char *json) {
    char text[2048];
    int size = sprintf(text, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                       strlen(json), json);
    return send_bytes(c, text, (size_t)size);
}

static int answer_whole(Conn *c) {
    char json[1024];
    const char *content = c->chat ? "\"message\":{\"role\":\"assistant\",\"content\":\" tok\"}" : "\"text\":\" tok\"";
    sprintf(json,
            "{\"id\":\"cmpl-0\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,%s,"
            "\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}}",
            c->chat ? "chat.completion" : "text_completion", content, c->prompt, c->tokens, c->prompt + c->tokens);
    return answer_json(c, json);
}

/* One whole request is in c->in; 0 when the connection is gone. */
static int handle(Conn *c, size_t head) {
    const char *body = c->in + head;
    int alive;
    if (!strncmp(c->in, "POST", 4) && strstr(c->in, "/completions")) {
        c->chat = strstr(c->in, "/chat/completions") != NULL && strstr(c->in, "/chat/completions") < body;
        c->tokens = number_after(body, "\"max_tokens\"", number_after(body, "\"max_completion_tokens\"", 16));
        if (c->tokens < 1) c->tokens = 1;
        c->prompt = count_prompt(body);
        c->left = c->tokens;
        if (says_true(body, "\"stream\"")) {
            c->truth.body = now_ns();
            alive = send_bytes(c, HEAD, strlen(HEAD));
            c->due = c->truth.first + ttft_ns;
            heap_add(c);
        } else {
            alive = answer_whole(c);
        }
    } else {
        alive = answer_json(c, strstr(c->in, "/models") ? "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\","
                                                          "\"created\":1700000000,\"owned_by\":\"me\"}]}"
                                                        : "{}");
    }
    c->in_size = 0;
    return alive;
}

static int read_some(Conn *c) {
    for (;;) {
        if (c->in_room - c->in_size < 65536) c->in = grow(c->in, c->in_room = c->in_room + 131072);
        ssize_t got = recv(c->fd, c->in + c->in_size, c->in_room - c->in_size - 1, 0);
        if (got < 0) return errno == EAGAIN;
        if (got == 0) return 0;
        if (!c->in_size) {
            c->truth.first = now_ns();
            c->truth.accept = c->accepted;
        }
        c->in_size += (size_t)got;
        c->in[c->in_size] = 0;
        char *blank = memmem(c->in, c->in_size, "\r\n\r\n", 4);
        if (!blank) continue;
        size_t head = (size_t)(blank - c->in) + 4, length = 0;
        *blank = 0; /* the head alone is searched: a body of thousands of ids takes longer to search than to read */
        char *field = strcasestr(c->in, "\r\ncontent-length:");
        if (field) length = (size_t)atol(field + 17);
        int expects = strcasestr(c->in, "expect: 100-continue") != NULL;
        *blank = '\r';
        if (expects && c->in_size == head) send_bytes(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        if (c->in_size < head + length) continue;
        return handle(c, head);
    }
}

static void write_log(const char *path) {
    FILE *file = fopen(path, "w");
    if (!file) {
        perror(path);
        exit(1);
    }
    for (size_t k = 0; k < done_size; k++) {
        Truth *t = &done[k];
        fprintf(file, "%ld %ld %ld %ld", (long)t->accept, (long)t->first, (long)t->body, (long)t->end);
        for (int i = 0; i < t->count; i++) fprintf(file, " %ld", (long)t->writes[i]);
        fputc('\n', file);
    }
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: server TTFT_MS TPOT_MS LOG\n");
        return 1;
    }
    ttft_ns = (int64_t)(atof(argv[1]) * 1e6);
    tpot_ns = (int64_t)(atof(argv[2]) * 1e6);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 8192) ||
        getsockname(listener, (struct sockaddr *)&address, &size)) {
        perror("listen");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    int signals = signalfd(-1, &ends, SFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    poll_fd = epoll_create1(0);
    int *own[] = {&listener, &signals, &timer};
    for (int k = 0; k < 3; k++) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = own[k]};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, *own[k], &e);
    }
    int64_t armed = 0;
    for (;;) {
        int64_t now = now_ns();
        int busy = 0;
        for (int k = 0; k < AT_ONCE && heap_size && heap[0]->due <= now; k++) {
            /* A reader that does not keep up is not written to without end: its chunk waits until its buffer is empty. */
            Conn *c = heap[0];
            if (c->out_done < c->out_size) {
                c->due = now + 1000000;
                sift(0);
                continue;
            }
            if (!step(c)) drop(c);
        }
        if (heap_size) {
            busy = heap[0]->due <= now_ns();
            if (!busy && heap[0]->due != armed) {
                armed = heap[0]->due;
                struct itimerspec at = {.it_value = {armed / 1000000000, armed % 1000000000}};
                timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
            }
        }
        struct epoll_event events[64];
        int count = epoll_wait(poll_fd, events, 64, busy ? 0 : -1);
        for (int k = 0; k < count; k++) {
            void *what = events[k].data.ptr;
            if (what == &signals) {
                write_log(argv[3]);
                return 0;
            }
            if (what == &timer) {
                uint64_t expired;
                if (read(timer, &expired, sizeof expired) > 0) armed = 0;
                continue;
            }
            if (what == &listener) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    Conn *c = grow(NULL, sizeof *c);
                    memset(c, 0, sizeof *c);
                    c->fd = fd;
                    c->place = -1;
                    c->accepted = now_ns();
                    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
                    epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e);
                }
                continue;
            }
            Conn *c = what;
            int alive = 1;
            if (events[k].events & EPOLLOUT) alive = flush(c);
            if (alive && events[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) alive = read_some(c);
            if (!alive) drop(c);
        }
    }
}
