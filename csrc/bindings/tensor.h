// A tensor of torch's, read by the table of C functions that DLPack's exchange names: the extension
// is linked to none of torch, and runs with each of its versions.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace aefast {

// A float32 tensor on the CPU, for as long as nobody changes it. Strides are in elements.
struct FloatTensor {
    float* data;
    int dimensions;
    const int64_t *shape, *strides;

    int64_t size() const;
    bool is_contiguous() const;
};

// Whether the object is such a tensor, and has memory.
bool read_tensor(PyObject* object, FloatTensor& tensor);

// Whether it is a torch.Tensor, and of no subclass.
bool is_plain_tensor(PyObject* object);

}  // namespace aefast

namespace pybind11::detail {

template <>
struct type_caster<aefast::FloatTensor> {
    PYBIND11_TYPE_CASTER(aefast::FloatTensor, const_name("torch.Tensor"));
    bool load(handle source, bool) { return aefast::read_tensor(source.ptr(), value); }
};

}  // namespace pybind11::detail
