// Memory that is mapped from a file which somebody else may cut.
#pragma once

#include <atomic>
#include <cstdint>

namespace aefast {

// While one lives, a read past the end of the file that was mapped at [first, first + bytes) finds
// zeros: the system's answer is a signal that would end the process. On Linux; elsewhere it does
// nothing.
class MappingGuard {
  public:
    MappingGuard(uintptr_t first, uintptr_t bytes);
    ~MappingGuard();
    MappingGuard(const MappingGuard&) = delete;
    MappingGuard& operator=(const MappingGuard&) = delete;

    // Before each reading: another library may have taken the signal meanwhile.
    void watch() const;
    // Whether zeros were read in place of the file's bytes.
    bool is_cut() const;

    struct Mapping;

  private:
    Mapping* mapping_;
};

}  // namespace aefast
