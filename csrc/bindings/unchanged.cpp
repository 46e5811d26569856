// Whether Python's dictionaries hold what they held: asked of a model at each of its losses.
#include <pybind11/pybind11.h>

#include "bindings/binding.h"

namespace py = pybind11;

namespace aefast {
namespace {

PyObject* item(const py::tuple& tuple, size_t index) {
    return PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(index));
}

// Whether each dictionary holds this very object under this name. None stands for no name, too.
bool holds_under_names(const py::tuple& dicts, const py::tuple& names, const py::tuple& values) {
    for (size_t i = 0; i < dicts.size(); ++i) {
        PyObject* found = PyDict_GetItem(item(dicts, i), item(names, i));
        if ((found ? found : Py_None) != item(values, i)) return false;
    }
    return true;
}

bool holds_in_order(PyObject* dict, const py::tuple& values) {
    if (PyDict_GET_SIZE(dict) != static_cast<Py_ssize_t>(values.size())) return false;
    PyObject* value = nullptr;
    Py_ssize_t position = 0;
    for (size_t i = 0; PyDict_Next(dict, &position, nullptr, &value); ++i)
        if (value != item(values, i)) return false;
    return true;
}

// Whether each dictionary's values are these very objects, and no others.
bool holds_only(const py::tuple& dicts, const py::tuple& values) {
    for (size_t i = 0; i < dicts.size(); ++i)
        if (!holds_in_order(item(dicts, i), py::cast<py::tuple>(values[i]))) return false;
    return true;
}

void bind(py::module_& module) {
    module.def("holds_under_names", holds_under_names, py::arg("dicts"), py::arg("names"),
               py::arg("values"));
    module.def("holds_only", holds_only, py::arg("dicts"), py::arg("values"));
}

const Binding binding(bind);

}  // namespace
}  // namespace aefast
