#include "bindings/tensor.h"

#include <pybind11/gil_safe_call_once.h>

#include "bindings/binding.h"

namespace py = pybind11;

namespace aefast {
namespace {

// As DLPack defines them: https://dmlc.github.io/dlpack/latest/c_api.html
struct DlTensor {
    void* data;
    int32_t device_type, device_id;
    int32_t dimensions;
    uint8_t type_code, type_bits;
    uint16_t type_lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
};
struct DlExchange {
    uint32_t major_version, minor_version;
    const DlExchange* older;  // of another major version only what is above is known
    void *allocate, *managed_from_object, *managed_to_object;
    int (*from_object)(void* object, DlTensor* tensor);
    void* current_stream;
};
constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2;
constexpr uint32_t kMajorVersion = 1;
constexpr char kCapsule[] = "dlpack_exchange_api";

struct Torch {
    PyTypeObject* tensor_class;
    int (*from_object)(void* object, DlTensor* tensor);  // null where its exchange is not this one
};

const DlExchange* find_exchange(const py::object& tensor_class) {
    const py::object capsule = py::getattr(tensor_class, "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(capsule.ptr(), kCapsule)) return nullptr;
    auto* exchange = static_cast<const DlExchange*>(PyCapsule_GetPointer(capsule.ptr(), kCapsule));
    while (exchange && exchange->major_version != kMajorVersion) exchange = exchange->older;
    return exchange;
}

Torch find_torch() {
    const py::object tensor_class = py::module_::import("torch").attr("Tensor");
    const DlExchange* exchange = find_exchange(tensor_class);
    // Kept for good: a reference of its own.
    return {reinterpret_cast<PyTypeObject*>(tensor_class.inc_ref().ptr()),
            exchange ? exchange->from_object : nullptr};
}

const Torch& torch() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Torch> found;
    return found.call_once_and_store_result(find_torch).get_stored();
}

bool reads_tensors() { return torch().from_object != nullptr; }

}  // namespace

int64_t FloatTensor::size() const {
    int64_t product = 1;
    for (int i = 0; i < dimensions; ++i) product *= shape[i];
    return product;
}

bool FloatTensor::is_contiguous() const {
    int64_t expected = 1;
    for (int i = dimensions - 1; i >= 0; --i) {
        if (shape[i] != 1 && strides[i] != expected) return false;
        expected *= shape[i];
    }
    return true;
}

bool read_tensor(PyObject* object, FloatTensor& tensor) {
    if (!reads_tensors() || !PyObject_TypeCheck(object, torch().tensor_class)) return false;
    DlTensor read;
    if (torch().from_object(object, &read) != 0) {
        PyErr_Clear();  // sparse, fake, or on a device that DLPack does not know
        return false;
    }
    if (read.device_type != kCpu || read.type_code != kFloat || read.type_bits != 32) return false;
    tensor = {reinterpret_cast<float*>(static_cast<char*>(read.data) + read.byte_offset),
              read.dimensions, read.shape, read.strides};
    return read.data != nullptr;
}

bool is_plain_tensor(PyObject* object) { return Py_TYPE(object) == torch().tensor_class; }

namespace {

void bind(py::module_& module) { module.def("reads_tensors", reads_tensors); }

const Binding binding(bind);

}  // namespace

}  // namespace aefast
