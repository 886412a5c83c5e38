/* What happens next, in order: as ratematch/simulate/timeline.py has it. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t i64;

enum { NEXT, DUE, FORWARD, COMPUTE, GENERATE, ANSWERED, REPLY, REFUSED, EXPIRE, RELEASE, BEGIN, FINISH };

#define LAST ((i64)1 << 62) /* order of what comes after everything else of the same instant */

/* `number`: order of events of one instant. `who`: a request or a server. `version`: of a server's step. */
typedef struct {
    double when;
    i64 number, who, version;
    int kind;
} Event;

typedef struct {
    double now;
    i64 count, room, entered;
    Event *heap;
} Timeline;

/* Room for `count` elements, at least twice what there was. */
static void *grown(void *block, i64 *room, i64 count, size_t size)
{
    if (count <= *room) return block;
    i64 wanted = *room ? *room : 64;
    while (wanted < count) wanted *= 2;
    block = realloc(block, (size_t)wanted * size);
    if (!block) {
        fputs("ratematch: no memory left for the simulation\n", stderr);
        abort();
    }
    *room = wanted;
    return block;
}

static int sooner(const Event *a, const Event *b)
{
    return a->when < b->when || (a->when == b->when && a->number < b->number);
}

static void at(Timeline *line, double when, int kind, i64 who, i64 version, i64 order)
{
    Event event = {when > line->now ? when : line->now, order + line->entered++, who, version, kind};
    line->heap = grown(line->heap, &line->room, line->count + 1, sizeof(Event));
    i64 place = line->count++;
    while (place && sooner(&event, &line->heap[(place - 1) / 2])) {
        line->heap[place] = line->heap[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    line->heap[place] = event;
}

static Event pop(Timeline *line)
{
    Event first = line->heap[0], last = line->heap[--line->count];
    i64 place = 0, below;
    while ((below = 2 * place + 1) < line->count) {
        if (below + 1 < line->count && sooner(&line->heap[below + 1], &line->heap[below])) below++;
        if (!sooner(&line->heap[below], &last)) break;
        line->heap[place] = line->heap[below];
        place = below;
    }
    line->heap[place] = last;
    return first;
}
