/* A driver of CUDA without a device: real memory, work that waits in its stream, and a refusal of every misuse.

   What a real driver leaves undefined or notices late is an error here at once: a call without a context, memory that
   was freed or is too small, a handle that was cut to 32 bits, a host that reads before the stream got there. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { BLOCKS = 256, OPS = 256, STREAM = 0x57, EVENT = 0xE7, GRAPH = 0x60, EXEC = 0xE8 };
enum kind { TO_DEVICE, TO_HOST, WITHIN, MARK };

typedef struct { uint64_t base; uint8_t *memory; size_t size; int pinned; } Block;
typedef struct event Event;
typedef struct { enum kind kind; uint64_t target, source; size_t size; Event *event; } Op;
typedef struct { int kind; Op ops[OPS]; int count; } Graph;
typedef struct { int kind; Op ops[OPS]; int count, capturing, broken; Graph *captured; } Stream;
struct event { int kind; Stream *stream; int passed; float at; };

static Block blocks[BLOCKS];
static uint64_t next_base;
static size_t capacity, held;
static int initialized, retained, live, device_is_lost;
static float now;
static __thread int depth;
static int context_tag;

static int ready(void) { return !initialized ? NOT_INITIALIZED : depth < 1 ? INVALID_CONTEXT : device_is_lost; }

static Block *block_of(uint64_t address, size_t size) {
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].memory && !blocks[i].pinned && address >= blocks[i].base && address + size <= blocks[i].base + blocks[i].size)
            return &blocks[i];
    return 0;
}

static uint8_t *at(uint64_t address, size_t size) {
    Block *block = block_of(address, size);
    return block ? block->memory + (address - block->base) : 0;
}

static int run(Op *op) {
    now += 0.5f;
    if (op->kind == MARK) { op->event->passed = 1; op->event->at = now; return SUCCESS; }
    uint8_t *target = op->kind == TO_HOST ? (uint8_t *)op->target : at(op->target, op->size);
    uint8_t *source = op->kind == TO_DEVICE ? (uint8_t *)op->source : at(op->source, op->size);
    if (!target || !source) return ILLEGAL_ADDRESS;
    memmove(target, source, op->size);
    return SUCCESS;
}

static int put(Stream *stream, Op op) {
    if (!stream || stream->kind != STREAM) return INVALID_HANDLE;
    if (stream->capturing) {
        Graph *graph = stream->captured;
        if (op.kind == MARK || graph->count == OPS) { stream->broken = 1; return CAPTURE_UNSUPPORTED; }
        graph->ops[graph->count++] = op;
        return SUCCESS;
    }
    if (stream->count == OPS) return OUT_OF_MEMORY;
    stream->ops[stream->count++] = op;
    return SUCCESS;
}

static int drain(Stream *stream, Event *until) {
    int code = SUCCESS, done = 0;
    while (done < stream->count && !(until && until->passed) && code == SUCCESS) code = run(&stream->ops[done++]);
    memmove(stream->ops, stream->ops + done, sizeof(Op) * (stream->count - done));
    stream->count -= done;
    return code;
}

/* For tests. */
void fake_reset(size_t bytes) { memset(blocks, 0, sizeof blocks); next_base = 0x7f0000000000u; capacity = bytes; held = 0;
    initialized = retained = live = device_is_lost = 0; now = 0; depth = 0; }
int fake_live(void) { return live; }
int fake_depth(void) { return depth; }
int fake_retained(void) { return retained; }
void fake_lose_device(int code) { device_is_lost = code; }

int cuInit(unsigned flags) { if (flags) return INVALID_VALUE; initialized = 1; return SUCCESS; }
int cuDriverGetVersion(int *version) { *version = 12060; return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { if (!initialized) return NOT_INITIALIZED; *device = 0; return ordinal ? 101 : SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NVIDIA Fake Orin", length); return device; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = capacity; return device; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; return device; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (!initialized) return NOT_INITIALIZED;
    *context = &context_tag; retained++; return device;
}
int cuCtxPushCurrent_v2(void *context) {
    if (!initialized) return NOT_INITIALIZED;
    if (context != &context_tag) return INVALID_CONTEXT;
    depth++; return SUCCESS;
}
int cuCtxPopCurrent_v2(void **context) { if (depth < 1) return INVALID_CONTEXT; depth--; *context = &context_tag; return device_is_lost; }
int cuGetErrorName(int code, const char **name) {
    *name = code == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
        : code == INVALID_HANDLE ? "CUDA_ERROR_INVALID_HANDLE" : code == CAPTURE_INVALIDATED ? "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
        : code == CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}

static int take(size_t size, int pinned, uint64_t *address) {
    int code = ready();
    if (code) return code;
    if (!size) return INVALID_VALUE;
    if (held + size > capacity) return OUT_OF_MEMORY;
    for (int i = 0; i < BLOCKS; i++) if (!blocks[i].memory) {
        Block made = { next_base, malloc(size), size, pinned };
        memset(made.memory, 0xCD, size);
        if (pinned) made.base = (uint64_t)made.memory; else next_base += 0x40000000u;
        blocks[i] = made; held += size; live++; *address = made.base;
        return SUCCESS;
    }
    return OUT_OF_MEMORY;
}

static int give(uint64_t address, int pinned) {
    int code = ready();
    if (code) return code;
    for (int i = 0; i < BLOCKS; i++) if (blocks[i].memory && blocks[i].pinned == pinned && blocks[i].base == address) {
        free(blocks[i].memory); held -= blocks[i].size; blocks[i].memory = 0; live--;
        return SUCCESS;
    }
    return INVALID_VALUE;
}

int cuMemAlloc_v2(uint64_t *address, size_t size) { return take(size, 0, address); }
int cuMemFree_v2(uint64_t address) { return give(address, 0); }
int cuMemHostAlloc(void **memory, size_t size, unsigned flags) { return flags ? INVALID_VALUE : take(size, 1, (uint64_t *)memory); }
int cuMemFreeHost(void *memory) { return give((uint64_t)memory, 1); }

int cuStreamCreate(Stream **stream, unsigned flags) {
    int code = ready();
    if (code || flags) return code ? code : INVALID_VALUE;
    *stream = calloc(1, sizeof(Stream)); (*stream)->kind = STREAM; live++; return SUCCESS;
}
int cuStreamDestroy_v2(Stream *stream) {
    int code = ready();
    if (code) return code;
    if (!stream || stream->kind != STREAM) return INVALID_HANDLE;
    stream->kind = 0; live--; return SUCCESS;
}
int cuStreamSynchronize(Stream *stream) {
    int code = ready();
    if (code) return code;
    if (!stream || stream->kind != STREAM) return INVALID_HANDLE;
    if (stream->capturing) { stream->broken = 1; return CAPTURE_UNSUPPORTED; }
    return drain(stream, 0);
}

int cuEventCreate(Event **event, unsigned flags) {
    int code = ready();
    if (code || flags > 1) return code ? code : INVALID_VALUE;
    *event = calloc(1, sizeof(Event)); (*event)->kind = EVENT; live++; return SUCCESS;
}
int cuEventDestroy_v2(Event *event) {
    int code = ready();
    if (code) return code;
    if (!event || event->kind != EVENT) return INVALID_HANDLE;
    event->kind = 0; live--; return SUCCESS;
}
int cuEventRecord(Event *event, Stream *stream) {
    int code = ready();
    if (code) return code;
    if (!event || event->kind != EVENT) return INVALID_HANDLE;
    event->stream = stream; event->passed = 0;
    Op op = { MARK, 0, 0, 0, event };
    return put(stream, op);
}
int cuEventSynchronize(Event *event) {
    int code = ready();
    if (code) return code;
    if (!event || event->kind != EVENT || !event->stream) return INVALID_HANDLE;
    return event->passed ? SUCCESS : drain(event->stream, event);
}
int cuEventElapsedTime(float *ms, Event *start, Event *end) {
    if (start->kind != EVENT || end->kind != EVENT) return INVALID_HANDLE;
    if (!start->passed || !end->passed) return NOT_READY;
    *ms = end->at - start->at; return SUCCESS;
}

static int copy(enum kind kind, uint64_t target, uint64_t source, size_t size, Stream *stream) {
    int code = ready();
    if (code) return code;
    if ((kind != TO_HOST && !block_of(target, size)) || (kind != TO_DEVICE && !block_of(source, size))) return INVALID_VALUE;
    if (kind == WITHIN && block_of(target, size) == block_of(source, size)) return INVALID_VALUE;
    Op op = { kind, target, source, size, 0 };
    return put(stream, op);
}
int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size, Stream *stream) { return copy(TO_DEVICE, target, (uint64_t)source, size, stream); }
int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t size, Stream *stream) { return copy(TO_HOST, (uint64_t)target, source, size, stream); }
int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t size, Stream *stream) { return copy(WITHIN, target, source, size, stream); }

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    int code = ready();
    if (code) return code;
    if (!stream || stream->kind != STREAM) return INVALID_HANDLE;
    if (stream->capturing || stream->count || mode != 1) return INVALID_VALUE;
    stream->capturing = 1; stream->broken = 0; stream->captured = calloc(1, sizeof(Graph)); stream->captured->kind = GRAPH;
    return SUCCESS;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
    if (!stream || stream->kind != STREAM || !stream->capturing) return INVALID_HANDLE;
    stream->capturing = 0; *graph = 0;
    if (stream->broken) { free(stream->captured); return CAPTURE_INVALIDATED; }
    *graph = stream->captured; live++; return SUCCESS;
}
int cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long flags) {
    if (!graph || graph->kind != GRAPH || flags) return INVALID_HANDLE;
    *executable = malloc(sizeof(Graph)); **executable = *graph; (*executable)->kind = EXEC; live++; return SUCCESS;
}
int cuGraphDestroy(Graph *graph) { if (!graph || graph->kind != GRAPH) return INVALID_HANDLE; graph->kind = 0; live--; return SUCCESS; }
int cuGraphExecDestroy(Graph *graph) { if (!graph || graph->kind != EXEC) return INVALID_HANDLE; graph->kind = 0; live--; return SUCCESS; }
int cuGraphLaunch(Graph *graph, Stream *stream) {
    int code = ready();
    if (!graph || graph->kind != EXEC) return INVALID_HANDLE;
    for (int i = 0; i < graph->count && !code; i++) code = put(stream, graph->ops[i]);
    return code;
}
