// A kernel of a cubin: loaded once a context, its arguments converted from Python's, launched.
#include "cuda/cuda_kernel.h"

#include <cstring>
#include <map>
#include <vector>

namespace py = pybind11;

namespace aefast {
namespace {

constexpr size_t kMaxBytes = 4096;  // of parameters, which every chip takes
constexpr size_t kMaxParameters = kMaxBytes / 4;

// Triton's kernels end with two pointers of its own, to scratch memory and to a profiler's. No
// kernel of this package has a use for either, and the ahead-of-time compiler makes sure of it.
constexpr size_t kScratchPointers = 2;

template <class Value>
void store(unsigned char* destination, Value value) {
    std::memcpy(destination, &value, sizeof(value));
}

void check_python() {
    if (PyErr_Occurred()) throw py::error_already_set();
}

int64_t to_int64(PyObject* value) {
    const int64_t number = PyLong_AsLongLong(value);
    if (number == -1) check_python();
    return number;
}

int32_t to_int32(PyObject* value) {
    const int64_t number = to_int64(value);
    if (number != static_cast<int32_t>(number)) {
        PyErr_SetString(PyExc_OverflowError, "it does not fit in 32 bits");
        throw py::error_already_set();
    }
    return static_cast<int32_t>(number);
}

float to_float32(PyObject* value) {
    const double number = PyFloat_AsDouble(value);
    if (number == -1.0) check_python();
    return static_cast<float>(number);
}

uint64_t to_address(PyObject* value) {
    static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
    py::object address =
        PyLong_Check(value)
            ? py::reinterpret_borrow<py::object>(value)
            : py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(value, data_ptr));
    check_python();
    const uint64_t number = PyLong_AsUnsignedLongLong(address.ptr());
    check_python();
    return number;
}

// What torch prints for the element type of a pointer or a descriptor; empty for other arguments.
std::string dtype_of(const std::string& type) {
    static const std::map<std::string, std::string> kNames = {
        {"fp32", "torch.float32"}, {"bf16", "torch.bfloat16"}, {"fp16", "torch.float16"},
        {"i32", "torch.int32"},    {"i64", "torch.int64"},
    };
    const size_t begin = type[0] == '*' ? 1 : type.find('<') + 1;
    const auto name = kNames.find(type.substr(begin, type.find('[') - begin));
    return begin == 0 || name == kNames.end() ? "" : name->second;
}

}  // namespace

CudaKernel::CudaKernel(const std::string& image, const std::string& symbol, int warps,
                       int shared_bytes, const std::vector<std::string>& arguments,
                       std::vector<BlockLayout> descriptors)
    : function_(image, symbol, 32 * warps, shared_bytes), descriptors_(std::move(descriptors)) {
    size_t descriptor = 0;
    for (const std::string& type : arguments) {
        const Kind kind = kind_of(type);
        arguments_.push_back({kind, type, offsets_.size(), descriptor, dtype_of(type)});
        if (kind != Kind::descriptor) {
            const size_t bytes = kind == Kind::int32 || kind == Kind::float32 ? 4 : 8;
            append(bytes, bytes);
            continue;
        }
        if (descriptor == descriptors_.size()) {
            throw std::invalid_argument("descriptors has no entry for an argument of type " + type);
        }
        const size_t rank = descriptors_[descriptor++].block.size();
        if (rank < 1 || rank > kMaxRank) {
            throw std::invalid_argument("block_size has " + std::to_string(rank) +
                                        " dimensions; it takes 1 to 5");
        }
        append(kTensorMapBytes, kTensorMapAlignment);
        for (size_t i = 0; i < rank; ++i) append(4, 4);
        for (size_t i = 0; i < rank; ++i) append(8, 8);
    }
    if (descriptor != descriptors_.size()) {
        throw std::invalid_argument("descriptors has " + std::to_string(descriptors_.size()) +
                                    " entries for " + std::to_string(descriptor) + " arguments");
    }
    for (size_t i = 0; i < kScratchPointers; ++i) append(8, 8);
}

CudaKernel::Kind CudaKernel::kind_of(const std::string& type) {
    if (type.rfind('*', 0) == 0) return Kind::pointer;
    if (type.rfind("tensordesc<", 0) == 0) return Kind::descriptor;
    if (type == "i32") return Kind::int32;
    if (type == "i64") return Kind::int64;
    if (type == "fp32") return Kind::float32;
    throw std::invalid_argument("arguments has the type '" + type +
                                "'; it takes pointers, tensordesc, i32, i64 and fp32");
}

void CudaKernel::append(size_t bytes, size_t alignment) {
    const size_t offset = (bytes_ + alignment - 1) / alignment * alignment;
    if (offset + bytes > kMaxBytes) {
        throw std::invalid_argument("arguments take more than 4096 bytes");
    }
    offsets_.push_back(offset);
    bytes_ = offset + bytes;
}

struct CudaKernel::Parameters {
    alignas(kTensorMapAlignment) unsigned char storage[kMaxBytes];
    void* pointers[kMaxParameters];
};

void CudaKernel::launch(int64_t programs, uintptr_t stream, int device, const py::tuple& values) {
    Parameters parameters;
    pack(programs, values, parameters);
    if (programs == 0) return;
    py::gil_scoped_release release;
    function_.launch(static_cast<unsigned>(programs), stream, device, parameters.pointers);
}

void CudaKernel::pack(int64_t programs, const py::tuple& values, Parameters& parameters) {
    if (programs < 0 || programs > INT32_MAX) {
        throw std::invalid_argument("programs is " + std::to_string(programs) +
                                    "; it takes a number from 0 to 2^31 - 1");
    }
    if (values.size() != arguments_.size()) {
        throw py::type_error(function_.symbol() + " takes " + std::to_string(arguments_.size()) +
                             " arguments, not " + std::to_string(values.size()));
    }
    if (programs == 0) return;
    unsigned char* storage = parameters.storage;
    for (size_t i = 0; i < arguments_.size(); ++i) {
        PyObject* value = PyTuple_GET_ITEM(values.ptr(), i);
        try {
            unpack(arguments_[i], value, storage);
        } catch (py::error_already_set& error) {
            error.restore();
            refuse(i, value);
        }
    }
    for (size_t i = offsets_.size() - kScratchPointers; i < offsets_.size(); ++i) {
        store<uint64_t>(storage + offsets_[i], 0);
    }
    point(parameters);
}

void CudaKernel::point(Parameters& parameters) const {
    for (size_t i = 0; i < offsets_.size(); ++i) {
        parameters.pointers[i] = parameters.storage + offsets_[i];
    }
}

void launch_in_turn(const std::vector<LaunchInTurn>& launches, uintptr_t stream, int device,
                    int32_t first_step, int64_t rounds) {
    if (rounds < 0 || rounds > INT32_MAX) {
        throw std::invalid_argument("rounds is " + std::to_string(rounds) +
                                    "; it takes a number from 0 to 2^31 - 1");
    }
    std::vector<CudaKernel::Parameters> packed(launches.size());
    std::vector<void*> steps;
    for (size_t i = 0; i < launches.size(); ++i) {
        const LaunchInTurn& launch = launches[i];
        const std::vector<CudaKernel::Argument>& arguments = launch.kernel->arguments_;
        if (launch.step >= arguments.size() ||
            arguments[launch.step].kind != CudaKernel::Kind::int32) {
            throw std::invalid_argument("argument " + std::to_string(launch.step) + " of " +
                                        launch.kernel->function_.symbol() +
                                        " is no step; that is of type i32");
        }
        launch.kernel->pack(launch.programs, launch.arguments, packed[i]);
        if (launch.programs == 0) return;
        steps.push_back(packed[i].pointers[arguments[launch.step].parameter]);
    }
    py::gil_scoped_release release;
    int32_t step = first_step;
    for (int64_t round = 0; round < rounds; ++round) {
        for (size_t i = 0; i < launches.size(); ++i) {
            store(static_cast<unsigned char*>(steps[i]), step++);
            launches[i].kernel->function_.launch(static_cast<unsigned>(launches[i].programs),
                                                 stream, device, packed[i].pointers);
        }
    }
}

PackedLaunch::PackedLaunch(CudaKernel& kernel, int64_t programs, int device,
                           const py::tuple& arguments)
    : kernel_(kernel), programs_(programs), device_(device) {
    CudaKernel::Parameters parameters;
    kernel.pack(programs, arguments, parameters);
    values_.assign(parameters.storage, parameters.storage + kernel.bytes_);
    for (size_t i = 0; i < kernel.arguments_.size(); ++i) {
        CudaKernel::Argument& argument = kernel.arguments_[i];
        if (argument.kind == CudaKernel::Kind::pointer) memory_.push_back({i, {}});
        if (argument.kind != CudaKernel::Kind::descriptor) continue;
        const size_t rank = kernel.descriptors_[argument.descriptor].block.size();
        PyObject* descriptor = PyTuple_GET_ITEM(arguments.ptr(), i);
        memory_.push_back({i, CudaKernel::global_tensor(argument, descriptor, rank)});
    }
}

void PackedLaunch::launch(uintptr_t stream, const py::args& tensors) {
    if (tensors.size() != memory_.size()) {
        throw py::type_error(kernel_.function_.symbol() + " takes " +
                             std::to_string(memory_.size()) + " tensors, not " +
                             std::to_string(tensors.size()));
    }
    if (programs_ == 0) return;
    CudaKernel::Parameters parameters;
    std::memcpy(parameters.storage, values_.data(), values_.size());
    for (size_t i = 0; i < memory_.size(); ++i) {
        CudaKernel::Argument& argument = kernel_.arguments_[memory_[i].argument];
        unsigned char* destination = parameters.storage + kernel_.offsets_[argument.parameter];
        PyObject* value = PyTuple_GET_ITEM(tensors.ptr(), i);
        try {
            CudaKernel::check_dtype(argument, value);
            const uint64_t address = to_address(value);
            if (argument.kind == CudaKernel::Kind::pointer) {
                store(destination, address);
                continue;
            }
            GlobalTensor tensor = memory_[i].tensor;
            tensor.address = address;
            encode_tensor_map(tensor, kernel_.descriptors_[argument.descriptor], destination);
        } catch (py::error_already_set& error) {
            error.restore();
            kernel_.refuse(memory_[i].argument, value);
        }
    }
    kernel_.point(parameters);
    py::gil_scoped_release release;
    kernel_.function_.launch(static_cast<unsigned>(programs_), stream, device_,
                             parameters.pointers);
}

// A tensor's dtype is the signature's.
void CudaKernel::check_dtype(Argument& argument, PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("dtype");
    if (PyLong_Check(tensor)) return;
    const auto dtype = py::reinterpret_steal<py::object>(PyObject_GetAttr(tensor, name));
    if (!dtype) return PyErr_Clear();
    if (dtype.ptr() == argument.seen_dtype) return;
    const std::string actual = py::str(dtype);
    if (actual != argument.dtype) {
        PyErr_Format(PyExc_TypeError, "its dtype is %s, not %s", actual.c_str(),
                     argument.dtype.c_str());
        throw py::error_already_set();
    }
    argument.seen_dtype = dtype.ptr();
}

void CudaKernel::unpack(Argument& argument, PyObject* value, unsigned char* storage) const {
    unsigned char* destination = storage + offsets_[argument.parameter];
    switch (argument.kind) {
        case Kind::pointer:
            check_dtype(argument, value);
            return store(destination, to_address(value));
        case Kind::int32:
            return store(destination, to_int32(value));
        case Kind::int64:
            return store(destination, to_int64(value));
        case Kind::float32:
            return store(destination, to_float32(value));
        case Kind::descriptor:
            return unpack_descriptor(argument, value, storage);
    }
}

// The map that the chip loads by, then the shape and the strides, of which Triton's descriptors
// consist in a kernel's signature.
void CudaKernel::unpack_descriptor(Argument& argument, PyObject* value,
                                   unsigned char* storage) const {
    const BlockLayout& layout = descriptors_[argument.descriptor];
    const size_t rank = layout.block.size();
    const GlobalTensor tensor = global_tensor(argument, value, rank);
    const size_t* offset = &offsets_[argument.parameter];
    for (size_t i = 0; i < rank; ++i) {
        store(storage + offset[1 + i], static_cast<int32_t>(tensor.shape[i]));
        store(storage + offset[1 + rank + i], tensor.strides[i]);
    }
    encode_tensor_map(tensor, layout, storage + offset[0]);
}

GlobalTensor CudaKernel::global_tensor(Argument& argument, PyObject* value, size_t rank) {
    const auto descriptor = py::reinterpret_borrow<py::object>(value);
    const py::object tensor = descriptor.attr("tensor");
    check_dtype(argument, tensor.ptr());
    const py::tuple shape = tensor.attr("shape");
    const py::tuple strides = tensor.attr("stride")();
    if (shape.size() != rank) {
        PyErr_Format(PyExc_ValueError, "its tensor has %zu dimensions, not %zu", shape.size(),
                     rank);
        throw py::error_already_set();
    }
    GlobalTensor global = {};
    global.address = to_address(tensor.ptr());
    global.round_to_tf32 = PyObject_IsTrue(descriptor.attr("round_to_tf32").ptr()) == 1;
    for (size_t i = 0; i < rank; ++i) {
        global.shape[i] = to_int32(PyTuple_GET_ITEM(shape.ptr(), i));
        global.strides[i] = to_int64(PyTuple_GET_ITEM(strides.ptr(), i));
    }
    return global;
}

// The error that Python has at hand, of the same type, with the argument's name.
void CudaKernel::refuse(size_t index, PyObject* value) const {
    const std::string message = "argument " + std::to_string(index) + " of " + function_.symbol() +
                                " is of type " + Py_TYPE(value)->tp_name + "; it takes " +
                                arguments_[index].type;
    py::raise_from(PyErr_Occurred(), message.c_str());
    throw py::error_already_set();
}

}  // namespace aefast
