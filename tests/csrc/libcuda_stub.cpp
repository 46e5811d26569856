// A CUDA driver without a GPU: what each call was given goes into a file, a line of JSON a call.
//
// CUDA_STUB_LOG names the file. CUDA_STUB_FAIL="cuModuleLoadData=209" makes a function fail with an
// error. CUDA_STUB_VERSION is what the driver calls itself. A launch's parameters are read with the
// sizes that the binary itself gives them, so that one too few or of another size shows.
#include <elf.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Parameter {
    uint16_t offset;
    uint16_t bytes;
};

struct Function {
    std::string module;
    std::string name;
    std::map<uint16_t, Parameter> parameters;
};

struct Module {
    std::string digest;
    const char* image;
};

// CUlaunchConfig
struct LaunchConfiguration {
    unsigned grid[3];
    unsigned block[3];
    unsigned shared;
    void* stream;
    void* attributes;
    unsigned attribute_count;
};

constexpr uintptr_t kFirstContext = 0x1000;  // of device 0; a device, a context

const char* const log_path = std::getenv("CUDA_STUB_LOG");
const char* const failing = std::getenv("CUDA_STUB_FAIL");

std::mutex mutex;
thread_local uintptr_t context = 0;
thread_local int capture_mode = 0;  // CU_STREAM_CAPTURE_MODE_GLOBAL

template <class Value>
std::string field(const char* name, const Value& value) {
    std::ostringstream text;
    text << ", \"" << name << "\": " << value;
    return text.str();
}

std::string quoted(const std::string& text) { return '"' + text + '"'; }

std::string hexadecimal(const void* data, size_t bytes) {
    std::string text;
    char digits[3];
    for (size_t i = 0; i < bytes; ++i) {
        std::snprintf(digits, 3, "%02x", static_cast<const unsigned char*>(data)[i]);
        text += digits;
    }
    return text;
}

// Writes the call down; returns the error that it was told to fail with, or success.
int record(const char* name, const std::string& fields = "") {
    if (log_path) {
        const std::lock_guard<std::mutex> lock(mutex);
        FILE* file = std::fopen(log_path, "a");
        std::fprintf(file, "{\"call\": \"%s\", \"context\": %zu, \"capture_mode\": %d%s}\n", name,
                     static_cast<size_t>(context), capture_mode, fields.c_str());
        std::fclose(file);
    }
    const size_t length = std::strlen(name);
    const bool fails =
        failing && std::strncmp(failing, name, length) == 0 && failing[length] == '=';
    return fails ? std::atoi(failing + length + 1) : 0;
}

std::vector<Elf64_Shdr> sections(const char* image) {
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
    std::vector<Elf64_Shdr> found(header->e_shnum);
    std::memcpy(found.data(), image + header->e_shoff, found.size() * sizeof(Elf64_Shdr));
    return found;
}

// FNV-1a of a whole file; its section headers end it, or its program headers after them.
std::string digest(const char* image) {
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
    size_t size = header->e_shoff + header->e_shnum * sizeof(Elf64_Shdr);
    const size_t programs_end = header->e_phoff + header->e_phnum * sizeof(Elf64_Phdr);
    if (header->e_phnum && programs_end > size) size = programs_end;
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < size; ++i) {
        hash = (hash ^ static_cast<unsigned char>(image[i])) * 0x100000001b3;
    }
    return hexadecimal(&hash, sizeof(hash));
}

// The attributes EIATTR_KPARAM_INFO of the section .nv.info.<function>.
bool read_parameters(const char* image, const char* function,
                     std::map<uint16_t, Parameter>& parameters) {
    constexpr uint8_t kSized = 4;             // EIFMT_SVAL: the value's size precedes it
    constexpr uint8_t kParameterInfo = 0x17;  // EIATTR_KPARAM_INFO
    const auto all = sections(image);
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
    const char* names = image + all[header->e_shstrndx].sh_offset;
    const std::string wanted = std::string(".nv.info.") + function;
    for (const Elf64_Shdr& section : all) {
        if (names + section.sh_name != wanted) continue;
        const char* attribute = image + section.sh_offset;
        const char* end = attribute + section.sh_size;
        while (attribute < end) {
            uint16_t size = 0;
            std::memcpy(&size, attribute + 2, 2);
            const bool sized = attribute[0] == kSized;
            if (sized && attribute[1] == kParameterInfo) {
                uint16_t ordinal, offset;
                uint32_t packed;
                std::memcpy(&ordinal, attribute + 8, 2);
                std::memcpy(&offset, attribute + 10, 2);
                std::memcpy(&packed, attribute + 12, 4);
                parameters[ordinal] = {offset, static_cast<uint16_t>(packed >> 18)};
            }
            attribute += sized ? 4 + size : 4;
        }
        return true;
    }
    return false;
}

int record_launch(const char* name, const LaunchConfiguration& configuration, void* handle,
                  void** parameters, void** extra) {
    if (!log_path) return record(name);
    const auto* function = static_cast<Function*>(handle);
    std::ostringstream values;
    for (const auto& [ordinal, parameter] : function->parameters) {
        values << (ordinal ? ", " : "")
               << quoted(hexadecimal(parameters[ordinal], parameter.bytes));
    }
    const auto triple = [](const unsigned* sizes) {
        std::ostringstream text;
        text << "[" << sizes[0] << ", " << sizes[1] << ", " << sizes[2] << "]";
        return text.str();
    };
    return record(name, field("image", quoted(function->module)) +
                            field("function", quoted(function->name)) +
                            field("grid", triple(configuration.grid)) +
                            field("block", triple(configuration.block)) +
                            field("shared", configuration.shared) +
                            field("stream", reinterpret_cast<uintptr_t>(configuration.stream)) +
                            field("attributes", configuration.attribute_count) +
                            field("extra", reinterpret_cast<uintptr_t>(extra)) +
                            field("parameters", "[" + values.str() + "]"));
}

}  // namespace

extern "C" {

int cuInit(unsigned flags) { return record("cuInit", field("flags", flags)); }

int cuGetErrorName(int error, const char** name) {
    static const std::map<int, const char*> names = {{1, "CUDA_ERROR_INVALID_VALUE"},
                                                     {100, "CUDA_ERROR_NO_DEVICE"},
                                                     {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
                                                     {500, "CUDA_ERROR_NOT_FOUND"},
                                                     {719, "CUDA_ERROR_LAUNCH_FAILED"}};
    const auto found = names.find(error);
    *name = found == names.end() ? nullptr : found->second;
    return *name ? 0 : 1;
}

int cuDriverGetVersion(int* version) {
    const char* told = std::getenv("CUDA_STUB_VERSION");
    *version = told ? std::atoi(told) : 13020;
    return record("cuDriverGetVersion");
}

int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return record("cuDeviceGet", field("ordinal", ordinal));
}

// Triton's own launcher asks for this: shared memory that a block may have, and the like.
int cuDeviceGetAttribute(int* value, int, int) {
    *value = 227 * 1024;
    return 0;
}

// And for this, of each tensor: all are the device's here.
int cuPointerGetAttribute(void* value, int, uintptr_t address) {
    std::memcpy(value, &address, sizeof(address));
    return 0;
}

// To these it is linked, and here it does not come to call them.
int cuCtxGetLimit(size_t*, int) { return 801; }
int cuCtxSetLimit(int, size_t) { return 801; }
int cuGetErrorString(int, const char** text) {
    *text = "an error that the stub was told to give";
    return 0;
}

int cuDevicePrimaryCtxRetain(void** retained, int device) {
    *retained = reinterpret_cast<void*>(kFirstContext + device);
    return record("cuDevicePrimaryCtxRetain", field("device", device));
}

int cuCtxGetCurrent(void** current) {
    *current = reinterpret_cast<void*>(context);
    return record("cuCtxGetCurrent");
}

int cuCtxSetCurrent(void* wanted) {
    context = reinterpret_cast<uintptr_t>(wanted);
    return record("cuCtxSetCurrent");
}

int cuThreadExchangeStreamCaptureMode(int* mode) {
    std::swap(*mode, capture_mode);
    return record("cuThreadExchangeStreamCaptureMode");
}

int cuModuleLoadData(void** module, const void* image) {
    const char* bytes = static_cast<const char*>(image);
    *module = new Module{digest(bytes), bytes};
    return record("cuModuleLoadData", field("image", quoted(digest(bytes))));
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
    const auto* from = static_cast<Module*>(module);
    auto* found = new Function{from->digest, name, {}};
    *function = found;
    const int result = record("cuModuleGetFunction", field("function", quoted(name)));
    return read_parameters(from->image, name, found->parameters) ? result : 500;
}

int cuFuncGetAttribute(int* value, int attribute, void*) {
    *value = attribute == 0 ? 1024 : 0;  // threads that a block may have
    return record("cuFuncGetAttribute", field("attribute", attribute));
}

int cuFuncSetAttribute(void*, int attribute, int value) {
    return record("cuFuncSetAttribute", field("attribute", attribute) + field("value", value));
}

int cuFuncSetCacheConfig(void*, int config) {
    return record("cuFuncSetCacheConfig", field("config", config));
}

int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   void* stream, void** parameters, void** extra) {
    const LaunchConfiguration configuration = {
        {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, stream, nullptr, 0};
    return record_launch("cuLaunchKernel", configuration, function, parameters, extra);
}

int cuLaunchKernelEx(const LaunchConfiguration* configuration, void* function, void** parameters,
                     void** extra) {
    return record_launch("cuLaunchKernelEx", *configuration, function, parameters, extra);
}

// The map: the arguments, in the words that the driver would encode, and bit 21 of the second word
// set as drivers before CUDA 13.2 set it.
int cuTensorMapEncodeTiled(void* tensor_map, int type, uint32_t rank, void* address,
                           const uint64_t* sizes, const uint64_t* strides, const uint32_t* block,
                           const uint32_t* element_strides, int interleave, int swizzle,
                           int promotion, int fill) {
    std::memset(tensor_map, 0, 128);
    auto* words = static_cast<uint64_t*>(tensor_map);
    words[0] = reinterpret_cast<uintptr_t>(address);
    words[1] = uint64_t{1} << 21;
    if (!log_path) return record("cuTensorMapEncodeTiled");
    std::ostringstream fields;
    const auto list = [&](const char* name, const auto* values, uint32_t count) {
        fields << ", \"" << name << "\": [";
        for (uint32_t i = 0; i < count; ++i) fields << (i ? ", " : "") << values[i];
        fields << "]";
    };
    fields << field("address", words[0]) << field("type", type) << field("interleave", interleave)
           << field("swizzle", swizzle) << field("promotion", promotion) << field("fill", fill)
           << field("alignment", reinterpret_cast<uintptr_t>(tensor_map) % 64);
    list("sizes", sizes, rank);
    list("strides", strides, rank - 1);
    list("block", block, rank);
    list("element_strides", element_strides, rank);
    return record("cuTensorMapEncodeTiled", fields.str());
}
}
