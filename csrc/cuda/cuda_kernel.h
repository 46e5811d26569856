// A kernel that was compiled ahead of time, and its launch from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/cuda_driver.h"

namespace aefast {

struct LaunchInTurn;
class PackedLaunch;

// The arguments' types are those of a Triton signature: "*fp32" for a pointer to it, "i32",
// "i64", "fp32", "tensordesc<bf16[128, 64]>". A pointer is given as an int or as anything with
// data_ptr(); a descriptor as anything with `tensor` and `round_to_tf32`. A dtype, where there is
// one, must be the signature's: a kernel writes as many bytes as that says.
class CudaKernel {
  public:
    CudaKernel(const std::string& image, const std::string& symbol, int warps, int shared_bytes,
               const std::vector<std::string>& arguments, std::vector<BlockLayout> descriptors);

    // Launches `programs` blocks. The GIL is released while the driver is at work: it may wait for
    // room in the stream, and with it for other threads.
    void launch(int64_t programs, uintptr_t stream, int device, const pybind11::tuple& arguments);

  private:
    friend class PackedLaunch;
    friend void launch_in_turn(const std::vector<LaunchInTurn>& launches, uintptr_t stream,
                               int device, int32_t first_step, int64_t rounds);

    // What a launch passes: the values, and where each of them is.
    struct Parameters;

    enum class Kind { pointer, int32, int64, float32, descriptor };

    struct Argument {
        Kind kind;
        std::string type;
        size_t parameter;   // the first of those it becomes
        size_t descriptor;  // which of descriptors_
        std::string dtype;  // of what it points to, as torch prints it
        // The object of that name, once one was seen: an immortal one, compared by its address.
        PyObject* seen_dtype = nullptr;
    };

    void pack(int64_t programs, const pybind11::tuple& arguments, Parameters& parameters);
    void point(Parameters& parameters) const;
    static Kind kind_of(const std::string& type);
    static void check_dtype(Argument& argument, PyObject* tensor);
    void append(size_t bytes, size_t alignment);
    void unpack(Argument& argument, PyObject* value, unsigned char* storage) const;
    void unpack_descriptor(Argument& argument, PyObject* value, unsigned char* storage) const;
    static GlobalTensor global_tensor(Argument& argument, PyObject* descriptor, size_t rank);
    [[noreturn]] void refuse(size_t index, PyObject* value) const;

    CudaFunction function_;
    std::vector<Argument> arguments_;
    std::vector<BlockLayout> descriptors_;
    std::vector<size_t> offsets_;  // of each parameter in the launch's storage
    size_t bytes_ = 0;
};

// A launch that is made again and again: only where its tensors lie changes. What it passes besides
// is packed once.
class PackedLaunch {
  public:
    // The arguments are those of CudaKernel::launch. The kernel must outlive this.
    PackedLaunch(CudaKernel& kernel, int64_t programs, int device,
                 const pybind11::tuple& arguments);

    // With these in the place of the pointers and the descriptors' tensors, in the same order.
    // Their shapes and strides must be those of the first.
    void launch(uintptr_t stream, const pybind11::args& tensors);

  private:
    // An argument that is memory.
    struct Memory {
        size_t argument;
        GlobalTensor tensor;  // of a descriptor
    };

    CudaKernel& kernel_;
    const int64_t programs_;
    const int device_;
    std::vector<unsigned char> values_;
    std::vector<Memory> memory_;
};

// One of several launches that take turns.
struct LaunchInTurn {
    CudaKernel* kernel;
    int64_t programs;
    pybind11::tuple arguments;
    size_t step;  // which of the arguments is the number of the step, an i32
};

// Launches them one after the other, so many rounds: each is a step, numbered from `first_step` on.
// Between the launches there is no Python.
void launch_in_turn(const std::vector<LaunchInTurn>& launches, uintptr_t stream, int device,
                    int32_t first_step, int64_t rounds);

}  // namespace aefast
