/* Functions that are lines: kernels called one after the other, in a loop and on memory set up before.
 *
 * A *frame* has every tensor of a function laid out once, with what the function computes in between
 * in one block, the arena; a call puts in where its arguments and results lie, and runs. Of tvm_ffi
 * only what its ABI fixes is used: `TVMFFIAny`, `DLTensor`, and where an object has its function.
 */
#ifndef NEXUS_FRAME_H
#define NEXUS_FRAME_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };
enum { FFI_INT = 1, FFI_TENSOR = 7, OBJECT_HEADER = 24 };

typedef struct {
  int32_t type;
  int32_t zero;
  union {
    int64_t number;
    void *pointer;
  } value;
} any;

typedef struct {
  void *data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  const int64_t *shape, *strides;
  uint64_t byte_offset;
} tensor;

typedef int (*kernel_fn)(void *self, const any *arguments, int32_t count, any *result);

/* How a function is described, all in 64-bit integers (see `line.py`, which writes them). */
enum { FROM_ARENA = -1, FIXED = -2 }; /* else the number of an argument, or of a result behind these */
typedef struct {
  int64_t source, offset, code, bits, ndim, shape;
} tensor_note;
typedef struct {
  int64_t function, first, count;
} step_note;
typedef struct {
  int64_t is_tensor, value;
} argument_note;
enum { FRESH, COPIED, GIVEN }; /* made by kernels; copied from the tensor `from`; the argument `from` */
typedef struct {
  int64_t kind, from, bytes;
} result_note;

typedef struct {
  int64_t tensor_count, step_count, argument_count, input_count, result_count, arena_bytes;
  tensor_note *tensors;
  step_note *steps;
  argument_note *arguments;
  result_note *results;
  int64_t *shapes;
  int64_t place_count, *places; /* tensors that lie where a call says */
} program;

typedef struct frame {
  struct frame *next;
  tensor *tensors;
  any *arguments;
  void *arena;
} frame;

static void free_frame(frame *f) {
  if (f == NULL) return;
  free(f->tensors);
  free(f->arguments);
  free(f->arena);
  free(f);
}

static void lay_out(const program *p, frame *f) {
  for (int64_t i = 0; i < p->tensor_count; ++i) {
    const tensor_note *note = &p->tensors[i];
    tensor *t = &f->tensors[i];
    if (note->source == FROM_ARENA) t->data = (char *)f->arena + note->offset;
    if (note->source == FIXED) t->data = (void *)(intptr_t)note->offset;
    t->device_type = 1; /* the CPU */
    t->ndim = (int32_t)note->ndim;
    t->code = (uint8_t)note->code;
    t->bits = (uint8_t)note->bits;
    t->lanes = 1;
    t->shape = p->shapes + note->shape;
  }
  for (int64_t i = 0; i < p->argument_count; ++i) {
    const argument_note *note = &p->arguments[i];
    any *a = &f->arguments[i];
    a->type = note->is_tensor ? FFI_TENSOR : FFI_INT;
    if (note->is_tensor) a->value.pointer = &f->tensors[note->value];
    else a->value.number = note->value;
  }
}

/* NULL where there is no memory. */
static frame *make_frame(const program *p) {
  frame *f = calloc(1, sizeof(frame));
  if (f == NULL) return NULL;
  void *arena = NULL;
  size_t bytes = ((size_t)p->arena_bytes / ALIGNMENT + 1) * ALIGNMENT;
  f->tensors = calloc((size_t)p->tensor_count + 1, sizeof(tensor));
  f->arguments = calloc((size_t)p->argument_count + 1, sizeof(any));
  if (!f->tensors || !f->arguments || posix_memalign(&arena, ALIGNMENT, bytes) != 0) {
    free_frame(f);
    return NULL;
  }
  f->arena = arena;
  lay_out(p, f);
  return f;
}

/* Put in where arguments and results lie: `places` has the ones and then the others. */
static void settle(const program *p, frame *f, void *const *places) {
  for (int64_t i = 0; i < p->place_count; ++i) {
    const tensor_note *note = &p->tensors[p->places[i]];
    f->tensors[p->places[i]].data = (char *)places[note->source] + note->offset;
  }
}

/* Returns 0, or what a kernel returned that failed. */
static int run(const program *p, frame *f, void *const *places) {
  for (int64_t i = 0; i < p->step_count; ++i) {
    const step_note *step = &p->steps[i];
    void *function = (void *)(intptr_t)step->function;
    kernel_fn call = *(kernel_fn *)((char *)function + OBJECT_HEADER);
    any result = {0};
    int status = call(function, f->arguments + step->first, (int32_t)step->count, &result);
    if (status != 0) return status;
  }
  for (int64_t i = 0; i < p->result_count; ++i) {
    const result_note *note = &p->results[i];
    if (note->kind != COPIED) continue;
    memcpy(places[p->input_count + i], f->tensors[note->from].data, (size_t)note->bytes);
  }
  return 0;
}

#endif
