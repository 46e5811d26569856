// CUDA's driver, for kernels that were compiled ahead of time.
//
// libcuda is opened where the first of them is launched, and never linked: the same extension is
// built and imported on machines without CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace aefast {

class CudaError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Nothing was launched, and nothing is wrong with the arguments: a kernel compiled on the spot may
// still serve.
class CudaLoadError : public CudaError {
  public:
    using CudaError::CudaError;
};

// One kernel of a cubin, loaded into each context that it is launched in. It stays there: at the
// interpreter's end the driver may be gone before its modules are.
class CudaFunction {
  public:
    CudaFunction(std::string image, std::string symbol, unsigned threads, unsigned shared_bytes);

    // In the current context, or where there is none in the device's primary one, made current.
    // Each parameter points to a value of the size that the cubin says.
    void launch(unsigned blocks, uintptr_t stream, int device, void** parameters);

    const std::string& symbol() const { return symbol_; }

  private:
    void* load();

    const std::string image_;
    const std::string symbol_;
    const unsigned threads_;
    const unsigned shared_bytes_;
    std::mutex mutex_;
    std::vector<std::pair<void*, void*>> functions_;  // a context, and the kernel in it
};

constexpr size_t kTensorMapBytes = 128;
constexpr size_t kTensorMapAlignment = 128;  // for CUDA 13's headers; 64 for CUDA 12's
constexpr size_t kMaxRank = 5;

// How the compiler wants a tensor's blocks brought to shared memory.
struct BlockLayout {
    int swizzle;
    int element_bytes;
    int element_type;             // by the kernel's own numbers
    std::vector<uint32_t> block;  // elements a dimension, the outermost first
};

// A tensor in global memory; its last dimension is contiguous.
struct GlobalTensor {
    uintptr_t address;
    int64_t shape[kMaxRank];
    int64_t strides[kMaxRank];  // in elements
    bool round_to_tf32;
};

// Writes the CUtensorMap that loads the tensor's blocks.
void encode_tensor_map(const GlobalTensor& tensor, const BlockLayout& layout, void* tensor_map);

}  // namespace aefast
