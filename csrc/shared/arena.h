// Pieces of one block of working memory.
#pragma once

#include <cstdint>

#include "shared/isa.h"

namespace aefast::AEFAST_ISA {

// Hands out pieces of one reserved block; with no block it counts what they need.
class Arena {
  public:
    explicit Arena(char* block) : block_(block) {}

    template <class Element>
    Element* take(int64_t count) {
        char* piece = block_ == nullptr ? nullptr : block_ + used_;
        used_ += (count * static_cast<int64_t>(sizeof(Element)) + 63) / 64 * 64;
        return reinterpret_cast<Element*>(piece);
    }
    int64_t used() const { return used_; }

  private:
    char* block_;
    int64_t used_ = 0;
};

}  // namespace aefast::AEFAST_ISA
