/* Lines (see `frame.h`) as objects of Python.
 *
 * Only the stable interface of Python 3.11 is used, so that one build serves every later version.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#define _GNU_SOURCE
#include <Python.h>

#include "frame.h"

enum { FEW = 32 };

typedef struct {
  PyObject_HEAD
  program program;
  int64_t *inputs;  /* where the note of each input begins: rank, whether it is written to, sizes */
  PyObject *formats; /* of the inputs, as bytes */
  PyObject *empty, *makers; /* numpy.empty, and its arguments for each result */
  PyObject *kernels; /* which live as long as this */
  frame *frames; /* those that no call uses */
  void *data[6];
} line;

typedef struct {
  PyObject_HEAD
  line *line;
  frame *frame;
  Py_buffer *views;
  void **places;
  int is_busy;
} binding;

static PyTypeObject *binding_type;

/* How an error of tvm_ffi is taken from this thread, and dropped. */
static void (*take_error)(void **);
static int (*drop_error)(void *);
static PyObject *internal_error, *input_error; /* classes of nexus_runtime.errors */

typedef struct {
  const char *data;
  size_t size;
} text;

static void raise_kernel_error(void) {
  void *error = NULL;
  if (take_error) take_error(&error);
  if (error == NULL) {
    PyErr_SetString(internal_error, "a kernel failed and gave no reason");
    return;
  }
  const text *texts = (const text *)((char *)error + OBJECT_HEADER); /* kind, message, ... */
  PyObject *kind = PyUnicode_FromStringAndSize(texts[0].data, (Py_ssize_t)texts[0].size);
  PyObject *said = PyUnicode_FromStringAndSize(texts[1].data, (Py_ssize_t)texts[1].size);
  if (kind && said) PyErr_Format(internal_error, "a kernel failed: %U: %U", kind, said);
  Py_XDECREF(kind);
  Py_XDECREF(said);
  drop_error(error);
}

static void release(Py_buffer *views, int64_t count) {
  while (count-- > 0) PyBuffer_Release(&views[count]);
}

/* Whether `view` is what the function takes as its input `number`. */
static int fits(const line *l, int64_t number, const Py_buffer *view) {
  const int64_t *wanted = l->inputs + l->inputs[number];
  PyObject *format = PyTuple_GetItem(l->formats, (Py_ssize_t)number);
  if (view->ndim != wanted[0] || strcmp(view->format, PyBytes_AsString(format)) != 0) return 0;
  for (int i = 0; i < view->ndim; ++i) {
    if (view->shape[i] != wanted[2 + i]) return 0;
  }
  return (intptr_t)view->buf % view->itemsize == 0;
}

/* 1 where all arguments fit; 0 where one does not, and then no view is held. */
static int view_inputs(const line *l, PyObject *const *given, Py_buffer *views) {
  for (int64_t i = 0; i < l->program.input_count; ++i) {
    int writes = (int)l->inputs[l->inputs[i] + 1];
    int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (writes ? PyBUF_WRITABLE : 0);
    int is_viewed = PyObject_GetBuffer(given[i], &views[i], flags) == 0;
    if (is_viewed && fits(l, i, &views[i])) continue;
    PyErr_Clear();
    release(views, i + is_viewed);
    return 0;
  }
  return 1;
}

/* View the results, which are arguments or, in order, of `others`; made anew where that is NULL. */
static PyObject *view_results(
    const line *l, PyObject *const *given, PyObject *const *others, Py_buffer *views) {
  const program *p = &l->program;
  PyObject *results = PyTuple_New((Py_ssize_t)p->result_count);
  for (int64_t i = 0; results && i < p->result_count; ++i) {
    const result_note *note = &p->results[i];
    int is_given = note->kind == GIVEN;
    PyObject *result = is_given ? given[note->from] : others ? others[i] : NULL;
    views[i].obj = NULL; /* there is nothing to release */
    views[i].buf = NULL;
    if (result) Py_INCREF(result);
    else result = PyObject_CallObject(l->empty, PyTuple_GetItem(l->makers, (Py_ssize_t)i));
    if (result) PyTuple_SetItem(results, (Py_ssize_t)i, result);
    int flags = PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS;
    if (result && (is_given || PyObject_GetBuffer(result, &views[i], flags) == 0)) {
      if (is_given || views[i].len == note->bytes) continue;
      PyErr_SetString(input_error, "an array for a result has another size");
      PyBuffer_Release(&views[i]);
    }
    release(views, i);
    Py_CLEAR(results);
  }
  return results;
}

static int run_unlocked(const program *p, frame *f, void *const *places) {
  int status;
  Py_BEGIN_ALLOW_THREADS
  status = run(p, f, places);
  Py_END_ALLOW_THREADS
  if (status != 0) raise_kernel_error();
  return status;
}

static int call_in_frame(line *l, const Py_buffer *views, void **places) {
  const program *p = &l->program;
  frame *f = l->frames; /* under Python's lock, as all that touches the list */
  if (f) l->frames = f->next;
  else if ((f = make_frame(p)) == NULL) return PyErr_NoMemory(), -1;
  for (int64_t i = 0; i < p->input_count + p->result_count; ++i) places[i] = views[i].buf;
  settle(p, f, places);
  int status = run_unlocked(p, f, places);
  f->next = l->frames;
  l->frames = f;
  return status;
}

static PyObject *call_with(line *l, PyObject *const *given, Py_buffer *views, void **places) {
  int64_t inputs = l->program.input_count;
  if (!view_inputs(l, given, views)) Py_RETURN_NONE;
  PyObject *results = view_results(l, given, NULL, views + inputs);
  if (results) {
    if (call_in_frame(l, views, places) != 0) Py_CLEAR(results);
    release(views + inputs, l->program.result_count);
  }
  release(views, inputs);
  return results;
}

static PyObject *line_call(PyObject *self, PyObject *const *given, Py_ssize_t count) {
  line *l = (line *)self;
  size_t all = (size_t)(l->program.input_count + l->program.result_count);
  if (count != l->program.input_count) Py_RETURN_NONE;
  if (all <= FEW) {
    Py_buffer views[FEW];
    void *places[FEW];
    return call_with(l, given, views, places);
  }
  Py_buffer *views = malloc(all * (sizeof(Py_buffer) + sizeof(void *)));
  if (views == NULL) return PyErr_NoMemory();
  PyObject *results = call_with(l, given, views, (void **)(views + all));
  free(views);
  return results;
}

static void binding_dealloc(PyObject *self) {
  binding *b = (binding *)self;
  PyTypeObject *type = Py_TYPE(self);
  if (b->line) {
    const program *p = &b->line->program;
    if (b->frame) release(b->views, p->input_count + p->result_count);
    free_frame(b->frame);
    free(b->views);
    free(b->places);
    Py_DECREF(b->line);
  }
  PyObject_Free(self);
  Py_DECREF(type);
}

static PyObject *binding_run(PyObject *self, PyObject *Py_UNUSED(none)) {
  binding *b = (binding *)self;
  if (b->is_busy) {
    PyErr_SetString(input_error, "a binding is run by two threads at once: bind once for each");
    return NULL;
  }
  b->is_busy = 1;
  int status = run_unlocked(&b->line->program, b->frame, b->places);
  b->is_busy = 0;
  if (status != 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *new_object(PyTypeObject *type) {
  allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  return allocate(type, 0);
}

/* bind(*inputs, *results): with its tuple of results; None where an input does not fit. */
static PyObject *line_bind(PyObject *self, PyObject *const *given, Py_ssize_t count) {
  line *l = (line *)self;
  const program *p = &l->program;
  size_t all = (size_t)(p->input_count + p->result_count);
  if (count != (Py_ssize_t)all) Py_RETURN_NONE;
  binding *b = (binding *)new_object(binding_type);
  if (b == NULL) return NULL;
  b->line = (line *)Py_NewRef(self);
  b->views = malloc((all + 1) * sizeof(Py_buffer));
  b->places = malloc((all + 1) * sizeof(void *));
  frame *f = make_frame(p);
  PyObject *results = NULL;
  if (!b->views || !b->places || !f) {
    PyErr_NoMemory();
  } else if (!view_inputs(l, given, b->views)) {
    free_frame(f);
    Py_DECREF(b);
    Py_RETURN_NONE;
  } else {
    results = view_results(l, given, given + p->input_count, b->views + p->input_count);
    if (results == NULL) release(b->views, p->input_count);
  }
  if (results == NULL) {
    free_frame(f);
    Py_DECREF(b);
    return NULL;
  }
  Py_DECREF(results);
  b->frame = f;
  for (size_t i = 0; i < all; ++i) b->places[i] = b->views[i].buf;
  settle(p, f, b->places);
  return (PyObject *)b;
}

static void line_dealloc(PyObject *self) {
  line *l = (line *)self;
  PyTypeObject *type = Py_TYPE(self);
  for (frame *f = l->frames; f;) {
    frame *next = f->next;
    free_frame(f);
    f = next;
  }
  for (int i = 0; i < 6; ++i) free(l->data[i]);
  free(l->program.places);
  Py_XDECREF(l->formats);
  Py_XDECREF(l->empty);
  Py_XDECREF(l->makers);
  Py_XDECREF(l->kernels);
  PyObject_Free(self);
  Py_DECREF(type);
}

static PyMethodDef line_methods[] = {
    {"call", (PyCFunction)(void (*)(void))line_call, METH_FASTCALL,
     "call(*inputs): a tuple of results; None where an input does not fit."},
    {"bind", (PyCFunction)(void (*)(void))line_bind, METH_FASTCALL,
     "bind(*inputs, *results): what computes these arrays; None where an input does not fit."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot line_slots[] = {
    {Py_tp_dealloc, line_dealloc}, {Py_tp_methods, line_methods}, {0, NULL}};
static PyType_Spec line_spec = {
    "nexus_runtime.executors._line.Line", sizeof(line), 0, Py_TPFLAGS_DEFAULT, line_slots};
static PyMethodDef binding_methods[] = {
    {"run", binding_run, METH_NOARGS, "run(): compute the results."}, {NULL, NULL, 0, NULL}};
static PyType_Slot binding_slots[] = {
    {Py_tp_dealloc, binding_dealloc}, {Py_tp_methods, binding_methods}, {0, NULL}};
static PyType_Spec binding_spec = {
    "nexus_runtime.executors._line.Binding", sizeof(binding), 0, Py_TPFLAGS_DEFAULT, binding_slots};

static PyTypeObject *line_type;

static void *copied(const char *data, Py_ssize_t bytes) {
  void *copy = malloc((size_t)bytes + 1);
  if (copy) memcpy(copy, data, (size_t)bytes);
  return copy;
}

static int find_places(program *p) {
  p->places = malloc(((size_t)p->tensor_count + 1) * sizeof(int64_t));
  if (p->places == NULL) return -1;
  for (int64_t i = 0; i < p->tensor_count; ++i) {
    if (p->tensors[i].source >= 0) p->places[p->place_count++] = i;
  }
  return 0;
}

/* make(tensors, steps, arguments, results, shapes, inputs, formats, empty, makers, kernels, arena) */
static PyObject *make(PyObject *Py_UNUSED(module), PyObject *arguments) {
  const char *data[6];
  Py_ssize_t bytes[6], arena;
  PyObject *formats, *empty, *makers, *kernels;
  if (!PyArg_ParseTuple(arguments, "y#y#y#y#y#y#OOOOn", &data[0], &bytes[0], &data[1], &bytes[1],
                        &data[2], &bytes[2], &data[3], &bytes[3], &data[4], &bytes[4], &data[5],
                        &bytes[5], &formats, &empty, &makers, &kernels,
                        &arena)) {
    return NULL;
  }
  line *l = (line *)new_object(line_type);
  if (l == NULL) return NULL;
  program *p = &l->program;
  for (int i = 0; i < 6; ++i) {
    if ((l->data[i] = copied(data[i], bytes[i])) == NULL) return Py_DECREF(l), PyErr_NoMemory();
  }
  l->formats = Py_NewRef(formats);
  l->empty = Py_NewRef(empty);
  l->makers = Py_NewRef(makers);
  l->kernels = Py_NewRef(kernels);
  p->tensors = l->data[0];
  p->steps = l->data[1];
  p->arguments = l->data[2];
  p->results = l->data[3];
  p->shapes = l->data[4];
  l->inputs = l->data[5];
  p->tensor_count = bytes[0] / (Py_ssize_t)sizeof(tensor_note);
  p->step_count = bytes[1] / (Py_ssize_t)sizeof(step_note);
  p->argument_count = bytes[2] / (Py_ssize_t)sizeof(argument_note);
  p->result_count = bytes[3] / (Py_ssize_t)sizeof(result_note);
  p->input_count = PyTuple_Size(formats);
  p->arena_bytes = arena;
  if (find_places(p) != 0) return Py_DECREF(l), PyErr_NoMemory();
  return (PyObject *)l;
}

/* errors(take, drop, internal, input): the addresses of TVMFFIErrorMoveFromRaised and of
 * TVMFFIObjectDecRef, and the classes of errors */
static PyObject *errors(PyObject *Py_UNUSED(module), PyObject *arguments) {
  unsigned long long take, drop;
  PyObject *internal, *input;
  if (!PyArg_ParseTuple(arguments, "KKOO", &take, &drop, &internal, &input)) return NULL;
  internal_error = Py_NewRef(internal);
  input_error = Py_NewRef(input);
  take_error = (void (*)(void **))(uintptr_t)take;
  drop_error = (int (*)(void *))(uintptr_t)drop;
  Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"make", make, METH_VARARGS, "A line from its notes; see nexus_runtime/executors/line.py."},
    {"errors", errors, METH_VARARGS, "How errors of kernels are taken and dropped."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_line", NULL, -1, functions,
                                        NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__line(void) {
  line_type = (PyTypeObject *)PyType_FromSpec(&line_spec);
  binding_type = (PyTypeObject *)PyType_FromSpec(&binding_spec);
  if (line_type == NULL || binding_type == NULL) return NULL;
  return PyModule_Create(&definition);
}
