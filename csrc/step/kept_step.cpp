// Whether a model's kept step serves a loss, which is asked at each: in one call, for Python's take
// several times as long between other kernels, whose code fills the caches.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"
#include "bindings/tensor.h"
#include "shared/unit_interval.h"

namespace py = pybind11;

namespace aefast {
namespace {

PyObject* item(const py::tuple& tuple, size_t index) {
    return PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(index));
}

bool is_same(PyObject* found, PyObject* before) {
    if (found == before) return true;
    return PyFloat_CheckExact(found) && PyFloat_CheckExact(before) &&
           PyFloat_AS_DOUBLE(found) == PyFloat_AS_DOUBLE(before);
}

// Whether each dictionary holds this very object under this name, or an equal float. None stands
// for no name, too.
bool hold_under_names(const py::tuple& dicts, const py::tuple& names, const py::tuple& values) {
    for (size_t i = 0; i < dicts.size(); ++i) {
        PyObject* found = PyDict_GetItem(item(dicts, i), item(names, i));
        if (!is_same(found ? found : Py_None, item(values, i))) return false;
    }
    return true;
}

bool holds_in_order(PyObject* dict, PyObject* values) {
    if (PyDict_GET_SIZE(dict) != PyTuple_GET_SIZE(values)) return false;
    PyObject* value = nullptr;
    Py_ssize_t position = 0;
    for (Py_ssize_t i = 0; PyDict_Next(dict, &position, nullptr, &value); ++i)
        if (value != PyTuple_GET_ITEM(values, i)) return false;
    return true;
}

// Whether each dictionary's values are these very objects, and no others.
bool hold_only(const py::tuple& dicts, const py::tuple& values) {
    for (size_t i = 0; i < dicts.size(); ++i)
        if (!holds_in_order(item(dicts, i), item(values, i))) return false;
    return true;
}

bool are_instances(const py::tuple& objects, const py::tuple& classes) {
    for (size_t i = 0; i < objects.size(); ++i)
        if (reinterpret_cast<PyObject*>(Py_TYPE(item(objects, i))) != item(classes, i))
            return false;
    return true;
}

// Whether each class has this very function under this name.
bool have_functions(const py::tuple& classes, const py::tuple& names, const py::tuple& functions) {
    for (size_t i = 0; i < classes.size(); ++i)
        if (!py::getattr(item(classes, i), item(names, i)).is(py::handle(item(functions, i))))
            return false;
    return true;
}

bool is_true(PyObject* value) {
    const auto held = py::reinterpret_steal<py::object>(value);
    if (!held) throw py::error_already_set();
    const int truth = PyObject_IsTrue(held.ptr());
    if (truth < 0) throw py::error_already_set();
    return truth > 0;
}

bool all_answer_no(const py::tuple& questions) {
    for (size_t i = 0; i < questions.size(); ++i)
        if (is_true(PyObject_CallNoArgs(item(questions, i)))) return false;
    return true;
}

bool is_negated(PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("is_neg");
    return is_true(PyObject_CallMethodNoArgs(tensor, name));
}

bool requires_gradient(PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("requires_grad");
    return is_true(PyObject_GetAttr(tensor, name));
}

bool has_shape(const FloatTensor& tensor, PyObject* shape) {
    if (PyTuple_GET_SIZE(shape) != tensor.dimensions) return false;
    for (int i = 0; i < tensor.dimensions; ++i)
        if (PyLong_AsLongLong(PyTuple_GET_ITEM(shape, i)) != tensor.shape[i]) return false;
    return true;
}

// Whether the kernels read these tensors, of these shapes.
bool are_readable(const py::tuple& tensors, const py::tuple& shapes) {
    FloatTensor tensor;
    for (size_t i = 0; i < tensors.size(); ++i)
        if (!read_tensor(item(tensors, i), tensor) || !tensor.is_contiguous() ||
            !has_shape(tensor, item(shapes, i)) || is_negated(item(tensors, i)))
            return false;
    return true;
}

// Whether the kernels read x as rows of so many numbers, and which are few enough.
bool are_rows(py::handle x, int64_t width, int64_t most_rows, bool takes_unit_interval) {
    FloatTensor rows;
    if (!is_plain_tensor(x.ptr()) || !read_tensor(x.ptr(), rows) || rows.dimensions != 2)
        return false;
    if (rows.shape[0] < 1 || rows.shape[0] > most_rows || rows.shape[1] != width) return false;
    if (rows.strides[1] != 1 || is_negated(x.ptr()) || requires_gradient(x.ptr())) return false;
    if (!takes_unit_interval) return true;
    return rows.is_contiguous() && AEFAST_RUN(lie_in_unit_interval, rows.data, rows.size());
}

py::tuple part(const py::tuple& parts, size_t index) {
    return py::reinterpret_borrow<py::tuple>(item(parts, index));
}

// Whether a model is what it was. Each argument holds tuples of one length.
bool is_unchanged(const py::tuple& attributes, const py::tuple& members, const py::tuple& classes,
                  const py::tuple& functions, const py::tuple& tensors) {
    return hold_under_names(part(attributes, 0), part(attributes, 1), part(attributes, 2)) &&
           hold_only(part(members, 0), part(members, 1)) &&
           are_instances(part(classes, 0), part(classes, 1)) &&
           have_functions(part(functions, 0), part(functions, 1), part(functions, 2)) &&
           are_readable(part(tensors, 0), part(tensors, 1));
}

bool serves(py::handle x, int64_t width, int64_t most_rows, bool takes_unit_interval,
            const py::tuple& questions, const py::tuple& attributes, const py::tuple& members,
            const py::tuple& classes, const py::tuple& functions, const py::tuple& tensors) {
    return all_answer_no(questions) && are_rows(x, width, most_rows, takes_unit_interval) &&
           is_unchanged(attributes, members, classes, functions, tensors);
}

// Whether a gradient is the number 1, and each question is answered with no.
bool is_one(py::handle gradient, const py::tuple& questions, const py::tuple& attributes) {
    FloatTensor number;
    return is_plain_tensor(gradient.ptr()) && all_answer_no(questions) &&
           hold_under_names(part(attributes, 0), part(attributes, 1), part(attributes, 2)) &&
           read_tensor(gradient.ptr(), number) && number.dimensions == 0 && *number.data == 1 &&
           !is_negated(gradient.ptr());
}

void bind(py::module_& module) {
    module.def("is_one", is_one, py::arg("gradient"), py::arg("questions"), py::arg("attributes"));
    module.def("is_unchanged", is_unchanged, py::arg("attributes"), py::arg("members"),
               py::arg("classes"), py::arg("functions"), py::arg("tensors"));
    module.def("serves", serves, py::arg("x"), py::arg("width"), py::arg("most_rows"),
               py::arg("takes_unit_interval"), py::arg("questions"), py::arg("attributes"),
               py::arg("members"), py::arg("classes"), py::arg("functions"), py::arg("tensors"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
