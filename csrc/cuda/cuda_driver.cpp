// CUDA's driver, opened at the first launch: the extension links no CUDA library.
#include "cuda/cuda_driver.h"

#include <dlfcn.h>

#include <cstring>

namespace aefast {
namespace {

// What is used of cuda.h, which is not there where the extension is built.
using Result = int;
using Device = int;
using Context = void*;
using Module = void*;
using Function = void*;
using Stream = void*;

constexpr Result kSuccess = 0;
constexpr int kNumRegisters = 4;               // CU_FUNC_ATTRIBUTE_NUM_REGS
constexpr int kMaxDynamicSharedSizeBytes = 8;  // CU_FUNC_ATTRIBUTE_...
constexpr int kPreferShared = 1;               // CU_FUNC_CACHE_PREFER_SHARED
constexpr int kRelaxed = 2;                    // CU_STREAM_CAPTURE_MODE_RELAXED
constexpr int kTypeTfloat32 = 11;              // CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
constexpr int kPromotion128Bytes = 2;          // CU_TENSOR_MAP_L2_PROMOTION_L2_128B

constexpr unsigned kSharedWithoutAsking = 48 << 10;

struct Driver {
    Driver();

    int version = 0;  // CUDA 13.1 is 13010

    Result (*cuInit)(unsigned flags);
    Result (*cuGetErrorName)(Result, const char** name);
    Result (*cuDriverGetVersion)(int* version);
    Result (*cuDeviceGet)(Device*, int ordinal);
    Result (*cuDevicePrimaryCtxRetain)(Context*, Device);
    Result (*cuCtxGetCurrent)(Context*);
    Result (*cuCtxSetCurrent)(Context);
    Result (*cuThreadExchangeStreamCaptureMode)(int* mode);
    Result (*cuModuleLoadData)(Module*, const void* image);
    Result (*cuModuleGetFunction)(Function*, Module, const char* name);
    Result (*cuFuncGetAttribute)(int* value, int attribute, Function);
    Result (*cuFuncSetAttribute)(Function, int attribute, int value);
    Result (*cuFuncSetCacheConfig)(Function, int config);
    Result (*cuLaunchKernel)(Function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z,
                             unsigned shared_bytes, Stream, void** parameters, void** extra);
    Result (*cuTensorMapEncodeTiled)(void* tensor_map, int element_type, uint32_t rank,
                                     void* address, const uint64_t* sizes,
                                     const uint64_t* byte_strides, const uint32_t* block,
                                     const uint32_t* element_strides, int interleave, int swizzle,
                                     int l2_promotion, int fill);

    // Throws Error with the driver's own name for what went wrong.
    template <class Error>
    void check(Result result, const char* call, const std::string& symbol) const {
        if (result == kSuccess) return;
        const char* name = nullptr;
        cuGetErrorName(result, &name);
        throw Error(std::string(call) + " for " + symbol + ": " +
                    (name ? name : "CUDA error " + std::to_string(result)));
    }
};

Driver::Driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) throw CudaLoadError(std::string("CUDA's driver does not load: ") + dlerror());
    const auto find = [library](auto& function, const char* name) {
        void* address = dlsym(library, name);
        if (!address) throw CudaLoadError(std::string("CUDA's driver has no ") + name);
        function = reinterpret_cast<std::decay_t<decltype(function)>>(address);
    };
    find(cuInit, "cuInit");
    find(cuGetErrorName, "cuGetErrorName");
    find(cuDriverGetVersion, "cuDriverGetVersion");
    find(cuDeviceGet, "cuDeviceGet");
    find(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
    find(cuCtxGetCurrent, "cuCtxGetCurrent");
    find(cuCtxSetCurrent, "cuCtxSetCurrent");
    find(cuThreadExchangeStreamCaptureMode, "cuThreadExchangeStreamCaptureMode");
    find(cuModuleLoadData, "cuModuleLoadData");
    find(cuModuleGetFunction, "cuModuleGetFunction");
    find(cuFuncGetAttribute, "cuFuncGetAttribute");
    find(cuFuncSetAttribute, "cuFuncSetAttribute");
    find(cuFuncSetCacheConfig, "cuFuncSetCacheConfig");
    find(cuLaunchKernel, "cuLaunchKernel");
    find(cuTensorMapEncodeTiled, "cuTensorMapEncodeTiled");
    check<CudaLoadError>(cuInit(0), "cuInit", "the process");
    check<CudaLoadError>(cuDriverGetVersion(&version), "cuDriverGetVersion", "the process");
}

// Opened once; a failure is thrown each time.
const Driver& driver() {
    static const Driver opened;
    return opened;
}

// A CUDA graph's capture refuses what may wait for the device, as loading does; this thread may.
class RelaxedCapture {
  public:
    RelaxedCapture() { exchange(); }
    ~RelaxedCapture() { exchange(); }
    RelaxedCapture(const RelaxedCapture&) = delete;

  private:
    void exchange() { driver().cuThreadExchangeStreamCaptureMode(&mode_); }
    int mode_ = kRelaxed;
};

// A thread that torch has not used yet, such as autograd's, has none.
Context current_context(int device, const std::string& symbol) {
    const Driver& cuda = driver();
    Context context = nullptr;
    cuda.check<CudaLoadError>(cuda.cuCtxGetCurrent(&context), "cuCtxGetCurrent", symbol);
    if (context) return context;
    Device handle = 0;
    cuda.check<CudaLoadError>(cuda.cuDeviceGet(&handle, device), "cuDeviceGet", symbol);
    cuda.check<CudaLoadError>(cuda.cuDevicePrimaryCtxRetain(&context, handle),
                              "cuDevicePrimaryCtxRetain", symbol);
    cuda.check<CudaLoadError>(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent", symbol);
    return context;
}

// The kernel's numbers for types differ from the host's in three.
int host_type(int kernel_type) {
    switch (kernel_type) {
        case 8:
            return 10;  // float32, subnormals flushed
        case 9:
            return 8;  // float64
        case 10:
            return 9;  // bfloat16
        default:
            return kernel_type;
    }
}

}  // namespace

CudaFunction::CudaFunction(std::string image, std::string symbol, unsigned threads,
                           unsigned shared_bytes)
    : image_(std::move(image)),
      symbol_(std::move(symbol)),
      threads_(threads),
      shared_bytes_(shared_bytes) {}

void CudaFunction::launch(unsigned blocks, uintptr_t stream, int device, void** parameters) {
    const Driver& cuda = driver();
    const Context context = current_context(device, symbol_);
    Function function = nullptr;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const auto& [where, loaded] : functions_) {
            if (where == context) function = loaded;
        }
        if (!function) {
            function = load();
            functions_.emplace_back(context, function);
        }
    }
    cuda.check<CudaError>(
        cuda.cuLaunchKernel(function, blocks, 1, 1, threads_, 1, 1, shared_bytes_,
                            reinterpret_cast<Stream>(stream), parameters, nullptr),
        "cuLaunchKernel", symbol_);
}

void* CudaFunction::load() {
    const Driver& cuda = driver();
    const RelaxedCapture relaxed;
    const auto check = [&](Result result, const char* call) {
        cuda.check<CudaLoadError>(result, call, symbol_);
    };
    Module module = nullptr;
    Function function = nullptr;
    check(cuda.cuModuleLoadData(&module, image_.data()), "cuModuleLoadData");
    check(cuda.cuModuleGetFunction(&function, module, symbol_.c_str()), "cuModuleGetFunction");
    // Any question makes a driver that loads lazily load now, where failing is harmless.
    int registers = 0;
    check(cuda.cuFuncGetAttribute(&registers, kNumRegisters, function), "cuFuncGetAttribute");
    if (shared_bytes_ > kSharedWithoutAsking) {
        check(cuda.cuFuncSetCacheConfig(function, kPreferShared), "cuFuncSetCacheConfig");
        check(cuda.cuFuncSetAttribute(function, kMaxDynamicSharedSizeBytes, shared_bytes_),
              "cuFuncSetAttribute");
    }
    return function;
}

void encode_tensor_map(const GlobalTensor& tensor, const BlockLayout& layout, void* tensor_map) {
    const Driver& cuda = driver();
    const size_t rank = layout.block.size();
    // The driver counts dimensions from the innermost, whose stride is one element.
    uint64_t sizes[kMaxRank], byte_strides[kMaxRank];
    uint32_t block[kMaxRank], element_strides[kMaxRank];
    uint64_t last_element = 0;
    for (size_t i = 0; i < rank; ++i) {
        const size_t dimension = rank - 1 - i;
        sizes[i] = tensor.shape[dimension];
        byte_strides[i] = (i == 0 ? 1 : tensor.strides[dimension]) * layout.element_bytes;
        block[i] = layout.block[dimension];
        element_strides[i] = 1;
        last_element += (sizes[i] - 1) * byte_strides[i];
    }
    const int type = tensor.round_to_tf32 ? kTypeTfloat32 : host_type(layout.element_type);
    cuda.check<CudaError>(
        cuda.cuTensorMapEncodeTiled(tensor_map, type, rank, reinterpret_cast<void*>(tensor.address),
                                    sizes, byte_strides + 1, block, element_strides, 0,
                                    layout.swizzle, kPromotion128Bytes, 0),
        "cuTensorMapEncodeTiled", "a tensor");
    // Drivers up to CUDA 13.1 set a bit that is wrong for tensors under 128 KiB; NVIDIA's CUTLASS
    // clears it, and so does Triton.
    if (cuda.version <= 13010 && last_element + 1 < (128 << 10)) {
        auto* word = static_cast<unsigned char*>(tensor_map) + sizeof(uint64_t);
        uint64_t bits;
        std::memcpy(&bits, word, sizeof(bits));
        bits &= ~(uint64_t{1} << 21);
        std::memcpy(word, &bits, sizeof(bits));
    }
}

}  // namespace aefast
