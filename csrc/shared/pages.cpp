// Asks Linux for huge pages; elsewhere it does nothing.
#include "shared/pages.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace aefast {

void advise_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#ifdef __linux__
    constexpr int64_t kWorthwhile = int64_t{4} << 20;
    constexpr uintptr_t kPage = 4096;
    if (bytes < kWorthwhile) return;
    const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) & ~(kPage - 1);
    const uintptr_t last = (reinterpret_cast<uintptr_t>(memory) + bytes) & ~(kPage - 1);
    // Advice only: where the system has no huge pages, nothing is lost.
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace aefast
