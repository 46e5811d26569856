// The extension module aefast._C.
//
// Its functions are bound where their kernels are, in each folder's bindings.cpp.
#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/binding.h"

namespace aefast {
namespace {

using Bind = void (*)(pybind11::module_&);

// Inside a function: the bindings of other files register before this file's variables exist.
std::vector<Bind>& registered() {
    static std::vector<Bind> bindings;
    return bindings;
}

}  // namespace

Binding::Binding(Bind bind) { registered().push_back(bind); }

}  // namespace aefast

PYBIND11_MODULE(_C, module) {
    for (const auto bind : aefast::registered()) bind(module);
}
