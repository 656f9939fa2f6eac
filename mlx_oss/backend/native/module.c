/* The Python module `_native`: looks at what it is given, and computes it without the interpreter's lock. An MLX array
 * is a buffer, so its memory is read in place. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kernels.h"

enum { INTERFACE = 2 }; /* raised with each change of what the functions take, in `__init__.py` too */

/* An argument as rows of its last dimension; without data if it is None. */
typedef struct { Py_buffer view; void *data; ptrdiff_t rows, columns; Kind kind; int is_float; } Array;

static int is(const Array *a, const char *format) { return a->view.format && !strcmp(a->view.format, format); }

/* Gets the arguments; the first one is written to. Returns 0 after an exception. */
static int get(PyObject *const *arguments, Array *arrays, int count) {
    for (int n = 0; n < count; n++) {
        Array *a = &arrays[n];
        if (arguments[n] == Py_None) continue;
        if (PyObject_GetBuffer(arguments[n], &a->view, n == 0 ? PyBUF_FULL : PyBUF_FULL_RO) != 0) return 0;
        a->data = a->view.buf;
        a->columns = a->view.ndim > 0 ? a->view.shape[a->view.ndim - 1] : 1;
        a->rows = a->view.len > 0 ? a->view.len / a->view.itemsize / a->columns : 0;
        a->kind = is(a, "f") ? FLOAT32 : is(a, "e") ? FLOAT16 : BFLOAT16;
        a->is_float = a->kind != BFLOAT16 || is(a, "bfloat16"); /* as MLX calls it */
    }
    return 1;
}

/* Gives the arguments back. */
static PyObject *finish(Array *arrays, int count, const char *wrong, int has_memory) {
    for (int n = 0; n < count; n++)
        if (arrays[n].view.obj) PyBuffer_Release(&arrays[n].view);
    if (wrong) PyErr_SetString(PyExc_ValueError, wrong);
    if (!wrong && !has_memory) PyErr_NoMemory();
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static int fits_packed(const Product *p, const Array *weight, const Array *scales, const Array *biases) {
    ptrdiff_t groups = p->group > 0 ? p->inputs / p->group : 0;
    if (!groups || p->inputs % p->group || p->group % PAD || !is(weight, "I") || !scales->data) return 0;
    if (weight->columns * 32 != p->inputs * (p->kind == AFFINE8 ? 8 : 4)) return 0;
    if (scales->rows != weight->rows || scales->columns != groups) return 0;
    if (p->kind == MXFP4) return is(scales, "B") && p->group == PAD;
    return biases->data && scales->is_float && is(biases, scales->view.format) && biases->rows == weight->rows &&
           biases->columns == groups;
}

/* product(out, x, experts, weight, scales, biases, bias, bits, group, alpha, limit, alternates), see `Product` */
static PyObject *product(PyObject *module, PyObject *args) {
    PyObject *o[7];
    int bits, group, alternates;
    double alpha, limit;
    Array arrays[7] = {0}, *out = arrays, *x = out + 1, *experts = x + 1, *weight = experts + 1, *scales = weight + 1,
          *biases = scales + 1, *bias = biases + 1;
    if (!PyArg_ParseTuple(args, "OOOOOOOiiddi", o, o + 1, o + 2, o + 3, o + 4, o + 5, o + 6, &bits, &group, &alpha,
                          &limit, &alternates) || !get(o, arrays, 7))
        return finish(arrays, 7, NULL, 1);
    Product p = {.pairs = out->rows, .outputs = out->columns, .x_rows = x->rows, .inputs = x->columns, .group = group};
    p.x = x->data, p.experts = experts->data, p.bias = bias->data, p.out = out->data;
    p.alpha = (float)alpha, p.limit = (float)limit, p.swiglu = alpha != 0, p.alternates = alternates != 0;
    p.kind = !bits ? weight->kind : bits == 8 ? AFFINE8 : biases->data ? AFFINE4 : MXFP4, p.scale_kind = scales->kind;
    p.values = weight->data, p.scales = scales->data, p.biases = biases->data;
    p.value_row = weight->columns * weight->view.itemsize, p.scale_row = scales->columns * scales->view.itemsize;
    p.rows = p.outputs * (1 + p.swiglu), p.matrices = p.rows ? weight->rows / p.rows : 0;
    int fits = is(x, "f") && is(out, "f") && (bits || weight->columns == p.inputs) && p.matrices > 0 &&
               p.matrices * p.rows == weight->rows && p.pairs < INT32_MAX && weight->rows < INT32_MAX &&
               (p.x_rows ? p.pairs % p.x_rows == 0 : p.pairs == 0) &&
               (bits ? fits_packed(&p, weight, scales, biases) : weight->is_float) &&
               (!p.bias || (is(bias, "f") && bias->rows * bias->columns == weight->rows)) &&
               (p.experts ? is(experts, "I") && experts->columns == p.pairs : p.matrices == 1 && p.pairs == p.x_rows);
    for (int n = 0; n < 7; n++) fits = fits && (!arrays[n].data || PyBuffer_IsContiguous(&arrays[n].view, 'C'));
    for (ptrdiff_t n = 0; fits && p.experts && n < p.pairs; n++) fits = p.experts[n] < (size_t)p.matrices;
    if (!fits || p.pairs == 0) return finish(arrays, 7, fits ? NULL : "the arrays do not fit together", 1);
    PyThreadState *state = PyEval_SaveThread();
    int has_memory = compute_product(&p);
    PyEval_RestoreThread(state);
    return finish(arrays, 7, NULL, has_memory);
}

/* attention(out, q, k, v, sinks, scale, window), see `Attention` */
static PyObject *attention(PyObject *module, PyObject *args) {
    PyObject *o[5];
    double scale;
    int window;
    Array arrays[5] = {0}, *out = arrays, *q = out + 1, *k = q + 1, *v = k + 1, *sinks = v + 1;
    if (!PyArg_ParseTuple(args, "OOOOOdi", o, o + 1, o + 2, o + 3, o + 4, &scale, &window) || !get(o, arrays, 5))
        return finish(arrays, 5, NULL, 1);
    Attention a = {.q = q->data, .k = k->data, .v = v->data, .sinks = sinks->data, .out = out->data};
    int fits = window > 0 && is(sinks, "f") && sinks->view.ndim == 1;
    for (int n = 0; n < 4; n++)
        fits = fits && is(&arrays[n], "f") && arrays[n].view.ndim == 4 && arrays[n].view.strides[3] == 4;
    if (fits) {
        const Py_ssize_t *s = q->view.shape, *t = k->view.shape;
        Py_ssize_t result[4] = {s[0], s[2], s[1], s[3]};
        fits = !memcmp(t, v->view.shape, sizeof result) && !memcmp(out->view.shape, result, sizeof result) &&
               s[0] == t[0] && s[3] == t[3] && s[1] == sinks->columns && t[1] > 0 && s[1] % t[1] == 0 && s[2] <= t[2] &&
               s[3] > 0 && s[1] * s[3] <= 1 << 22 && t[2] < 1 << 30 && s[0] * s[1] * s[2] < INT32_MAX;
        a.B = (int)s[0], a.H = (int)s[1], a.L = (int)s[2], a.D = (int)s[3], a.K = (int)t[1], a.S = (int)t[2];
        a.window = window < a.S ? window : a.S, a.scale = (float)scale;
        for (int n = 0; n < 3; n++) {
            a.q_row[n] = q->view.strides[n] / 4;
            a.k_row[n] = k->view.strides[n] / 4, a.v_row[n] = v->view.strides[n] / 4;
        }
    }
    fits = fits && PyBuffer_IsContiguous(&out->view, 'C') && PyBuffer_IsContiguous(&sinks->view, 'C');
    if (!fits || out->view.len == 0) return finish(arrays, 5, fits ? NULL : "the arrays do not fit together", 1);
    PyThreadState *state = PyEval_SaveThread();
    int has_memory = compute_attention(&a);
    PyEval_RestoreThread(state);
    return finish(arrays, 5, NULL, has_memory);
}

static PyObject *use(PyObject *module, PyObject *args) {
    int level, threads;
    if (!PyArg_ParseTuple(args, "ii", &level, &threads)) return NULL;
    const char *name = use_level(level);
    if (name) set_threads(threads);
    return name ? PyUnicode_FromString(name) : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"product", product, METH_VARARGS, NULL},
    {"attention", attention, METH_VARARGS, NULL},
    {"use", use, METH_VARARGS, "use(level, threads) -> the name of the level, or None if there is none"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_native", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__native(void) {
    use_level(0);
    PyObject *module = PyModule_Create(&definition);
    if (module) PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
    return module;
}
