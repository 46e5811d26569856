#pragma once

#include <pybind11/pybind11.h>

namespace aefast {

void bind_topk(pybind11::module_& module);

}  // namespace aefast
