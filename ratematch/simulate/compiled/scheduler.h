/* One server: in-flight batching, step after step, as ratematch/emulator/{scheduler,waitqueue,decoding,rank,lookahead}.py
 * and ratematch/simulate/server.py have it, operation by operation, so that all figures agree to the bit. */

#include "events.h"
#include <math.h>

#define MOST_AHEAD 4096
#define STRAIGHT 1e-4
#define KIND_FIELDS 8
#define KNOWN_STEPS 16
#define KNOWN_KINDS 4

enum { FULL, CONTEXT_ONLY, GENERATION_ONLY };
enum { QUEUED, TRANSFER, PREFILL, DECODE, HELD, DONE, CANCELLED };

typedef double (*StepTime)(i64 server, i64 kinds, const i64 *loads);

typedef struct {
    i64 id, request, prompt, max_tokens, rank, prefilled, generated, kv_len, blocks, first_iter, last_iter, surplus, next;
    double ready, transfer;
    int kind, state, admitted;
} Sequence;

/* A queue of sequences, by number. */
typedef struct {
    i64 first, count, room, *items;
} Queue;

typedef struct {
    i64 active, reserved, kv_read, gen, taken, piece;
    int blocked;
    Queue prefill;
} Rank;

typedef struct {
    double ready;
    i64 number, seq;
} Arrival;

/* What Python says of a server; the order is that of ratematch/simulate/compiled/bindings.py. */
typedef struct {
    i64 ranks, slots, token_budget, kv_blocks, block, mtp, max_num_tokens, cp, max_seq_len, chunked, chunk_unit;
    i64 balance, timeout_iters, wait_iters, gathering, gate, interval, limit, forced;
    double timeout_s, mean, forced_drafts, tokens_ratio, rising[16];
    double (*next_double)(void *);
    void *random;
} Limits;

/* A step of prompts alone: where they are equally long the same ones come again and again. */
typedef struct {
    i64 kinds, loads[KNOWN_KINDS * KIND_FIELDS];
    double seconds;
} KnownStep;

typedef struct {
    Limits limits;
    Rank *rank;
    Queue waiting, expecting;
    Arrival *arrivals;
    i64 arriving, arrivals_room;
    i64 admitted, iter, completed, cancelled, accepted, drafted, uneven, batching, next_id, version;
    int gate_open, asleep, in_step, chunks;
    double start, duration, busy, door;
    i64 ahead, ends_count, ends_room, gains_room;
    double ahead_ends[MOST_AHEAD], filled[MOST_AHEAD], *ends;
    KnownStep known[KNOWN_STEPS];
    i64 next_known;
    i64 base, width, *growth, *end_first, *end_last, *gains, *loads, *more;
} Server;

typedef struct Simulation Simulation;

static void begun(Simulation *sim, i64 server, i64 seq);
static void emitted(Simulation *sim, i64 server, Sequence *seq, int first, int finished);

struct Simulation {
    Timeline line;
    Server *server;
    i64 servers, sequences, sequences_room;
    Sequence *seq;
    StepTime step_time;
    int failed; /* a step time that is no number */
    i64 stuck;  /* the server whose fill gate can never open, or -1 */
    struct Service *service;
};

static void enqueue(Queue *queue, i64 item)
{
    if (queue->first && queue->first + queue->count == queue->room) {
        memmove(queue->items, queue->items + queue->first, (size_t)queue->count * sizeof(i64));
        queue->first = 0;
    }
    queue->items = grown(queue->items, &queue->room, queue->first + queue->count + 1, sizeof(i64));
    queue->items[queue->first + queue->count++] = item;
}

static i64 head(const Queue *queue) { return queue->items[queue->first]; }

static i64 dequeue(Queue *queue)
{
    queue->count--;
    return queue->items[queue->first++];
}

static i64 blocks_for(const Limits *limits, const Sequence *seq)
{
    i64 tokens = seq->prompt + (seq->kind == CONTEXT_ONLY ? 1 : seq->max_tokens + limits->mtp);
    return (tokens + limits->block - 1) / limits->block;
}

/* Can it never run here? */
static int refused(const Limits *limits, const Sequence *seq)
{
    if (seq->prompt < 1 || seq->max_tokens < 1) return 1;
    if (seq->kind != GENERATION_ONLY && !limits->chunked && seq->prompt > limits->max_num_tokens * limits->cp) return 1;
    if (seq->prompt + seq->max_tokens > limits->max_seq_len || limits->slots < 1) return 1;
    return blocks_for(limits, seq) > limits->kv_blocks;
}

/* ---------------------------------------------------------------------------------------------- what is to come */

/* Place of `iteration` in the tables of what is to come, which have room for `count` from there. */
static i64 ahead_place(Server *server, i64 iteration, i64 count)
{
    i64 start = iteration - server->base, ranks = server->limits.ranks;
    if (start + count <= server->width) return start;
    i64 left = start < server->width ? server->width - start : 0;
    i64 width = server->width, wanted = 2 * (count > left ? count : left);
    if (width < wanted) width = wanted;
    i64 *growth = calloc((size_t)(width * ranks), sizeof(i64)), *ends = malloc((size_t)(2 * width) * sizeof(i64));
    if (!growth || !ends) {
        fputs("ratematch: no memory left for the simulation\n", stderr);
        abort();
    }
    memset(ends, 0xff, (size_t)(2 * width) * sizeof(i64));
    for (i64 rank = 0; rank < ranks && left; rank++)
        memcpy(growth + rank * width, server->growth + rank * server->width + start, (size_t)left * sizeof(i64));
    if (left) {
        memcpy(ends, server->end_first + start, (size_t)left * sizeof(i64));
        memcpy(ends + width, server->end_last + start, (size_t)left * sizeof(i64));
    }
    free(server->growth);
    free(server->end_first);
    server->growth = growth;
    server->end_first = ends;
    server->end_last = ends + width;
    server->base = iteration;
    server->width = width;
    return 0;
}

/* Tokens gained in a step by a sequence that drafts. */
static i64 drawn(const Limits *limits)
{
    double luck = limits->next_double(limits->random);
    if (limits->forced) {
        i64 whole = (i64)limits->forced_drafts;
        return 1 + whole + (luck < limits->forced_drafts - (double)whole);
    }
    i64 below = 0;
    while (below < limits->mtp && limits->rising[below] <= luck) below++;
    return 1 + limits->mtp - below;
}

/* Gains of as many steps as it takes to reach `tokens`; returned: how many, and by how much the last passes. */
static i64 draw_until(Server *server, i64 tokens, i64 *beyond)
{
    const Limits *limits = &server->limits;
    *beyond = 0;
    if (!limits->mtp) {
        server->gains = grown(server->gains, &server->gains_room, tokens, sizeof(i64));
        for (i64 k = 0; k < tokens; k++) server->gains[k] = 1;
        return tokens;
    }
    i64 count = 0, wanted = 1 + (i64)(1.1 * (double)tokens / limits->mean), reached = 0;
    for (;;) {
        server->gains = grown(server->gains, &server->gains_room, count + wanted, sizeof(i64));
        for (i64 k = 0; k < wanted; k++) reached += server->gains[count++] = drawn(limits);
        if (reached >= tokens) break;
        wanted = 1 + (i64)((double)(tokens - reached) / limits->mean);
    }
    i64 steps = 0;
    for (reached = 0; reached < tokens;) reached += server->gains[steps++];
    *beyond = reached - tokens;
    return steps;
}

static void start_decode(Simulation *sim, Server *server, i64 number)
{
    Sequence *seq = &sim->seq[number];
    Rank *rank = &server->rank[seq->rank];
    i64 left = seq->max_tokens - seq->generated, tokens = left > 1 ? left : 1, beyond;
    i64 steps = draw_until(server, tokens, &beyond);
    seq->surplus = beyond + tokens - left;
    server->gains[steps - 1] -= seq->surplus;
    seq->state = DECODE;
    seq->first_iter = server->iter + 1;
    seq->last_iter = seq->first_iter + steps - 1;
    seq->next = -1;
    rank->gen++;
    rank->kv_read += seq->kv_len;
    i64 start = ahead_place(server, seq->first_iter, steps), last = start + steps - 1;
    i64 *growth = server->growth + seq->rank * server->width + start;
    for (i64 k = 0; k < steps; k++) growth[k] += server->gains[k];
    if (server->end_first[last] < 0)
        server->end_first[last] = number;
    else
        sim->seq[server->end_last[last]].next = number;
    server->end_last[last] = number;
}

/* ------------------------------------------------------------------------------------------------- admission */

static i64 pick_rank(const Server *server, const Sequence *seq)
{
    i64 need = blocks_for(&server->limits, seq), best = -1, fewest = server->limits.slots, least = 0;
    for (i64 index = 0; index < server->limits.ranks; index++) {
        const Rank *rank = &server->rank[index];
        if (rank->active > fewest || (rank->active == fewest && rank->reserved >= least)) continue;
        if (rank->blocked || rank->reserved + need > server->limits.kv_blocks) continue;
        best = index;
        fewest = rank->active;
        least = rank->reserved;
    }
    return best;
}

static int before(const Arrival *a, const Arrival *b)
{
    return a->ready < b->ready || (a->ready == b->ready && a->number < b->number);
}

static void remove_arrival(Server *server, i64 place)
{
    Arrival last = server->arrivals[--server->arriving];
    i64 count = server->arriving, below;
    if (place == count) return;
    Arrival *heap = server->arrivals;
    while (place && before(&last, &heap[(place - 1) / 2])) {
        heap[place] = heap[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    while ((below = 2 * place + 1) < count) {
        if (below + 1 < count && before(&heap[below + 1], &heap[below])) below++;
        if (!before(&heap[below], &last)) break;
        heap[place] = heap[below];
        place = below;
    }
    heap[place] = last;
}

static void expect_arrival(Server *server, double ready, i64 number)
{
    Arrival arrival = {ready, server->admitted, number};
    server->arrivals = grown(server->arrivals, &server->arrivals_room, server->arriving + 1, sizeof(Arrival));
    i64 place = server->arriving++;
    while (place && before(&arrival, &server->arrivals[(place - 1) / 2])) {
        server->arrivals[place] = server->arrivals[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    server->arrivals[place] = arrival;
}

static void admit(Simulation *sim, Server *server, double now)
{
    while (server->waiting.count) {
        i64 number = head(&server->waiting);
        Sequence *seq = &sim->seq[number];
        i64 index = pick_rank(server, seq);
        if (index < 0) return;
        dequeue(&server->waiting);
        Rank *rank = &server->rank[index];
        seq->rank = index;
        seq->admitted = 1;
        seq->blocks = blocks_for(&server->limits, seq);
        rank->active++;
        rank->reserved += seq->blocks;
        server->admitted++;
        if (seq->kind == GENERATION_ONLY) {
            seq->prefilled = seq->kv_len = seq->prompt;
            seq->generated = 1;
            seq->state = TRANSFER;
            if (now + seq->transfer > seq->ready) seq->ready = now + seq->transfer;
            expect_arrival(server, seq->ready, number);
        } else {
            seq->state = PREFILL;
            enqueue(&rank->prefill, number);
        }
    }
}

/* The prompt pieces of a rank's next step: the first `taken` of its prompts, of the last one `piece` tokens. */
static void take_chunks(Simulation *sim, const Limits *limits, Rank *rank)
{
    rank->blocked = 0;
    rank->taken = rank->piece = 0;
    i64 budget = limits->token_budget - rank->gen * (1 + limits->mtp);
    for (i64 k = 0; k < rank->prefill.count; k++) {
        Sequence *seq = &sim->seq[rank->prefill.items[rank->prefill.first + k]];
        i64 left = seq->prompt - seq->prefilled;
        if (left > budget) {
            i64 piece = budget / limits->chunk_unit * limits->chunk_unit;
            if (!piece && budget == limits->token_budget) piece = budget;
            if (limits->chunked && piece) {
                rank->taken++;
                rank->piece = piece;
            }
            rank->blocked = !rank->taken;
            return;
        }
        rank->taken++;
        rank->piece = left;
        budget -= left;
    }
}

/* Do the prompts wait for further ones? */
static int gathers(Simulation *sim, Server *server)
{
    const Limits *limits = &server->limits;
    Rank *rank = server->rank;
    if (!rank->taken || !rank->gen) return 0;
    i64 tokens = rank->piece + rank->gen * (1 + limits->mtp);
    for (i64 k = 0; k + 1 < rank->taken; k++) {
        const Sequence *seq = &sim->seq[rank->prefill.items[rank->prefill.first + k]];
        tokens += seq->prompt - seq->prefilled;
    }
    int wait = server->batching < limits->timeout_iters;
    wait = wait && (double)tokens < limits->tokens_ratio * (double)limits->token_budget;
    server->batching = wait ? server->batching + 1 : 0;
    return wait;
}

/* Do the prompts have to wait for a later iteration? */
static int balance_holds(Simulation *sim, Server *server)
{
    const Limits *limits = &server->limits;
    i64 some = 0, generating = 0;
    if (limits->gathering && limits->ranks == 1) return gathers(sim, server);
    if (!limits->balance || limits->ranks == 1) return 0;
    for (i64 index = 0; index < limits->ranks; index++) {
        some += server->rank[index].taken > 0;
        generating += server->rank[index].gen > 0;
    }
    if (!some || !generating) return 0;
    if (some < limits->ranks) {
        if (++server->uneven <= limits->timeout_iters) return 1;
    } else if (generating == limits->ranks && server->batching < limits->wait_iters) {
        server->batching++;
        return 1;
    }
    server->uneven = server->batching = 0;
    return 0;
}

/* ------------------------------------------------------------------------------------------------- step times */

/* One load of each kind, and how many ranks have it: of those that differ in cached tokens alone, the slowest. The kind
 * that reads most comes first: beside it others are seldom looked at closely. */
static double step_seconds(Simulation *sim, i64 index, const i64 *loads)
{
    Server *server = &sim->server[index];
    i64 ranks = server->limits.ranks, kinds = 0, *merged = server->loads + KIND_FIELDS * ranks;
    for (i64 rank = 0; rank < ranks; rank++) {
        const i64 *load = loads + KIND_FIELDS * rank;
        i64 *kind = merged;
        while (kind < merged + KIND_FIELDS * kinds && memcmp(kind, load, 5 * sizeof(i64))) kind += KIND_FIELDS;
        if (kind == merged + KIND_FIELDS * kinds) {
            memcpy(kind, load, KIND_FIELDS * sizeof(i64));
            kind[7] = 1;
            kinds++;
            continue;
        }
        i64 known = kind[7] + 1;
        if (load[5] > kind[5]) memcpy(kind, load, KIND_FIELDS * sizeof(i64));
        kind[7] = known;
    }
    i64 most = 0, kind[KIND_FIELDS];
    for (i64 k = 1; k < kinds; k++)
        if (merged[KIND_FIELDS * k + 5] > merged[KIND_FIELDS * most + 5]) most = k;
    if (most) {
        memcpy(kind, merged, sizeof kind);
        memcpy(merged, merged + KIND_FIELDS * most, sizeof kind);
        memcpy(merged + KIND_FIELDS * most, kind, sizeof kind);
    }
    int keep = kinds <= KNOWN_KINDS;
    for (i64 k = 0; k < kinds; k++) keep = keep && !merged[KIND_FIELDS * k + 3];
    size_t size = (size_t)kinds * KIND_FIELDS * sizeof(i64);
    for (const KnownStep *known = server->known; keep && known < server->known + KNOWN_STEPS; known++)
        if (known->kinds == kinds && !memcmp(known->loads, merged, size)) return known->seconds;
    double seconds = sim->step_time(index, kinds, merged);
    if (isnan(seconds)) sim->failed = 1;
    if (keep) {
        KnownStep *known = &server->known[server->next_known++ % KNOWN_STEPS];
        known->kinds = kinds;
        memcpy(known->loads, merged, size);
        known->seconds = seconds;
    }
    return seconds;
}

static void read_loads(Simulation *sim, Server *server)
{
    const Limits *limits = &server->limits;
    for (i64 index = 0; index < limits->ranks; index++) {
        Rank *rank = &server->rank[index];
        i64 *load = server->loads + KIND_FIELDS * index;
        memset(load, 0, KIND_FIELDS * sizeof(i64));
        for (i64 k = 0; k < rank->taken; k++) {
            Sequence *seq = &sim->seq[rank->prefill.items[rank->prefill.first + k]];
            i64 n = k + 1 < rank->taken ? seq->prompt - seq->prefilled : rank->piece;
            load[1] += n;
            load[2] += n * seq->prefilled + n * (n + 1) / 2;
            load[6] += (n + limits->max_num_tokens - 1) / limits->max_num_tokens;
        }
        load[0] = rank->taken;
        load[3] = rank->gen;
        load[4] = 1 + limits->mtp;
        load[5] = rank->kv_read;
    }
}

/* Seconds of the k-th iteration after the one that is to begin, while the same sequences run. */
static double seconds_after(Simulation *sim, i64 index, i64 start, i64 k)
{
    Server *server = &sim->server[index];
    for (i64 rank = 0; rank < server->limits.ranks; rank++) {
        i64 *load = server->more + KIND_FIELDS * rank;
        memcpy(load, server->loads + KIND_FIELDS * rank, KIND_FIELDS * sizeof(i64));
        const i64 *growth = server->growth + rank * server->width + start;
        for (i64 each = 0; each < k; each++) load[5] += growth[each];
    }
    return step_seconds(sim, index, server->more);
}

static void draw_line(double *filled, i64 low, i64 high)
{
    double first = filled[low], slope = (filled[high] - first) / (double)(high - low);
    for (i64 k = 0; k < high - low; k++) filled[low + k] = (double)k * slope + first;
}

/* When the iterations end that run the same sequences; 0: one alone. */
static i64 look_ahead(Simulation *sim, i64 index, double begin, double first_s)
{
    Server *server = &sim->server[index];
    i64 start = ahead_place(server, server->iter, 1), count = 0;
    while (count < MOST_AHEAD && server->end_first[start + count] < 0) count++;
    if (count < MOST_AHEAD) count++;
    if (count < 2) return 0;
    double change = server->arriving ? server->arrivals[0].ready : INFINITY, *filled = server->filled;
    server->ahead_ends[0] = begin + first_s;
    if (change <= begin + first_s) return 1;
    filled[0] = first_s;
    filled[count - 1] = seconds_after(sim, index, start, count - 1);
    i64 stretches[128][2] = {{0, count - 1}};
    for (int open = 1; open && !sim->failed;) {
        i64 low = stretches[--open][0], high = stretches[open][1], middle = (low + high) / 2;
        if (high - low < 2) continue;
        double between = filled[middle] = seconds_after(sim, index, start, middle);
        double line = filled[low] + (filled[high] - filled[low]) * (double)(middle - low) / (double)(high - low);
        if (fabs(between - line) <= STRAIGHT * between) {
            draw_line(filled, low, middle);
            draw_line(filled, middle, high);
        } else {
            stretches[open][0] = low, stretches[open++][1] = middle;
            stretches[open][0] = middle, stretches[open++][1] = high;
        }
    }
    double sum = 0.0;
    for (i64 k = 0; k < count; k++) {
        sum += filled[k];
        server->ahead_ends[k] = begin + sum;
        if (server->ahead_ends[k] >= change) return k + 1;
    }
    return count;
}

/* ------------------------------------------------------------------------------------------------- iterations */

/* Choose the batch of the next iteration; 0: nothing can run now. */
static int choose(Simulation *sim, i64 index, double now)
{
    Server *server = &sim->server[index];
    i64 ranks = server->limits.ranks, taken = 0, generating = 0;
    admit(sim, server, now);
    while (server->arriving && server->arrivals[0].ready <= now) {
        i64 number = server->arrivals[0].seq;
        remove_arrival(server, 0);
        start_decode(sim, server, number);
    }
    if (!server->gate_open)
        server->gate_open = server->admitted >= server->limits.gate && !server->arriving;
    if (!server->gate_open) return 0;
    int prompts = 0;
    for (i64 rank = 0; rank < ranks; rank++) prompts |= server->rank[rank].prefill.count || server->rank[rank].blocked;
    for (i64 rank = 0; rank < ranks; rank++) {
        if (prompts) take_chunks(sim, &server->limits, &server->rank[rank]);
        taken += server->rank[rank].taken;
        generating += server->rank[rank].gen;
    }
    server->chunks = taken && !balance_holds(sim, server);
    for (i64 rank = 0; rank < ranks && !server->chunks; rank++) server->rank[rank].taken = 0;
    if (!server->chunks && !generating) return 0;
    read_loads(sim, server);
    server->iter++;
    double first_s = step_seconds(sim, index, server->loads);
    server->ahead = prompts ? 0 : look_ahead(sim, index, now, first_s);
    server->start = now;
    server->duration = server->ahead ? server->ahead_ends[server->ahead - 1] - now : first_s;
    return 1;
}

static void complete(Server *server, Rank *rank, Sequence *seq)
{
    rank->active--;
    server->completed++;
    if (seq->kind == CONTEXT_ONLY) {
        seq->state = HELD;
    } else {
        seq->state = DONE;
        rank->reserved -= seq->blocks;
        seq->blocks = 0;
    }
}

static void advance_prompt(Simulation *sim, i64 index, Rank *rank, i64 number, i64 n)
{
    Server *server = &sim->server[index];
    Sequence *seq = &sim->seq[number];
    seq->kv_len += n;
    seq->prefilled += n;
    if (seq->prefilled < seq->prompt) return;
    dequeue(&rank->prefill);
    seq->generated = 1;
    int finished = seq->kind == CONTEXT_ONLY || seq->max_tokens == 1;
    if (finished)
        complete(server, rank, seq);
    else
        start_decode(sim, server, number);
    emitted(sim, index, seq, 1, finished);
}

/* The step is over: hand out what begins or ends in it. */
static void hand_out(Simulation *sim, i64 index)
{
    Server *server = &sim->server[index];
    i64 ranks = server->limits.ranks, count = server->ahead ? server->ahead : 1, generating = 0, gained = 0;
    i64 start = ahead_place(server, server->iter, count);
    for (i64 rank = 0; rank < ranks; rank++) {
        const i64 *growth = server->growth + rank * server->width + start;
        i64 tokens = 0;
        for (i64 k = 0; k < count; k++) tokens += growth[k];
        generating += server->rank[rank].gen;
        gained += tokens;
        server->rank[rank].kv_read += tokens;
    }
    server->iter += count - 1;
    server->accepted += gained - generating * count;
    server->drafted += generating * server->limits.mtp * count;
    i64 ended = server->end_first[start + count - 1];
    server->end_first[start + count - 1] = -1;
    if (ended < 0 && !server->chunks) return;
    for (i64 place = 0; place < ranks; place++) {
        Rank *rank = &server->rank[place];
        for (i64 each = ended; each >= 0; each = sim->seq[each].next) {
            Sequence *seq = &sim->seq[each];
            if (seq->rank != place) continue;
            i64 tokens = seq->max_tokens - seq->generated;
            seq->generated += tokens;
            seq->kv_len += tokens;
            rank->kv_read -= seq->kv_len;
            rank->gen--;
            server->accepted += seq->surplus;
            complete(server, rank, seq);
            emitted(sim, index, seq, seq->kind == GENERATION_ONLY, 1);
        }
        i64 taken = rank->taken, piece = rank->piece, gone = 0;
        for (i64 k = 0; k < taken; k++) {
            i64 number = rank->prefill.items[rank->prefill.first + k - gone], held = rank->prefill.count;
            Sequence *seq = &sim->seq[number];
            advance_prompt(sim, index, rank, number, k + 1 < taken ? seq->prompt - seq->prefilled : piece);
            gone += held - rank->prefill.count;
        }
        rank->taken = 0;
    }
}

/* ------------------------------------------------------------------------------------------------- the server */

static void fly(Simulation *sim, i64 index)
{
    Server *server = &sim->server[index];
    server->in_step = 1;
    server->version++;
    at(&sim->line, server->start + server->duration, FINISH, index, server->version, 0);
}

/* Something came or went: a step that stands for many ends at its next one; an idle server looks again. */
static void changed(Simulation *sim, i64 index)
{
    Server *server = &sim->server[index];
    if (server->in_step) {
        if (server->ahead < 2) return;
        i64 left = 0;
        while (left < server->ahead && server->ahead_ends[left] < sim->line.now) left++;
        if (left + 1 >= server->ahead) return;
        server->ahead = left + 1;
        server->duration = server->ahead_ends[left] - server->start;
        fly(sim, index);
    } else if (server->asleep) {
        server->asleep = 0;
        at(&sim->line, sim->line.now, BEGIN, index, 0, LAST);
    }
}

static void release(Simulation *sim, i64 index, i64 number)
{
    Sequence *seq = &sim->seq[number];
    if (seq->state != HELD) return;
    sim->server[index].rank[seq->rank].reserved -= seq->blocks;
    seq->blocks = 0;
    seq->state = DONE;
    changed(sim, index);
}

/* Drop a sequence whose KV cache is on its way. */
static void cancel_transfer(Simulation *sim, i64 index, i64 number)
{
    Server *server = &sim->server[index];
    Sequence *seq = &sim->seq[number];
    changed(sim, index);
    i64 place = 0;
    while (server->arrivals[place].seq != number) place++;
    remove_arrival(server, place);
    server->rank[seq->rank].active--;
    server->rank[seq->rank].reserved -= seq->blocks;
    seq->blocks = 0;
    seq->state = CANCELLED;
    server->cancelled++;
}

static void begin(Simulation *sim, i64 index)
{
    Server *server = &sim->server[index];
    if (server->in_step) return;
    int runs = choose(sim, index, sim->line.now);
    while (server->expecting.count && sim->seq[head(&server->expecting)].admitted)
        begun(sim, index, dequeue(&server->expecting));
    if (runs) {
        fly(sim, index);
        return;
    }
    const Limits *limits = &server->limits;
    if (!server->gate_open && limits->gate <= limits->slots * limits->ranks && server->waiting.count && !server->arriving &&
        server->admitted < limits->gate && pick_rank(server, &sim->seq[head(&server->waiting)]) < 0)
        sim->stuck = index;
    server->asleep = 1;
    if (server->arriving) at(&sim->line, server->arrivals[0].ready, BEGIN, index, 0, LAST);
}

static void finish(Simulation *sim, i64 index, i64 version)
{
    Server *server = &sim->server[index];
    if (version != server->version || !server->in_step) return;
    i64 count = server->ahead ? server->ahead : 1;
    server->in_step = 0;
    server->ends = grown(server->ends, &server->ends_room, server->ends_count + count, sizeof(double));
    if (server->ahead)
        memcpy(server->ends + server->ends_count, server->ahead_ends, (size_t)count * sizeof(double));
    else
        server->ends[server->ends_count] = server->start + server->duration;
    server->ends_count += count;
    server->busy += server->duration;
    hand_out(sim, index);
    server->asleep = 0;
    at(&sim->line, sim->line.now, BEGIN, index, 0, LAST);
}
