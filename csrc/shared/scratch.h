// Working memory kept from call to call: faulting in fresh pages costs more than packing into them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "shared/isa.h"

namespace aefast {
namespace AEFAST_ISA {

// Meant to be thread_local. What reserve() returns is aligned to a cache line and stays valid until
// the same thread reserves again.
class Scratch {
  public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { release(); }

    void* reserve(int64_t bytes) {
        if (bytes > capacity_) {
            release();
            capacity_ = (bytes + 63) / 64 * 64;
            data_ = std::aligned_alloc(64, capacity_);
            if (data_ == nullptr) {
                capacity_ = 0;
                throw std::bad_alloc();
            }
        }
        return data_;
    }

    void release() {
        std::free(data_);
        data_ = nullptr;
        capacity_ = 0;
    }

  private:
    void* data_ = nullptr;
    int64_t capacity_ = 0;
};

}  // namespace AEFAST_ISA
}  // namespace aefast
