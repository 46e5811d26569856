// The instruction sets that the processor and the system have, and which of them is in use.
#include "shared/isa.h"

#include <algorithm>

#ifdef AEFAST_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace aefast {
namespace {

#ifdef AEFAST_AMX
// Whether the processor has bfloat16 tiles and the system lets this process use them. Linux grants
// their 8 KB of registers on request, for the whole process and for good.
bool request_amx() {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
    constexpr unsigned kOsxsave = 1u << 27;
    if ((ecx & kOsxsave) == 0) return false;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
    constexpr unsigned kTileConfigState = 1u << 17, kTileDataState = 1u << 18;
    asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    if ((eax & kTileConfigState) == 0 || (eax & kTileDataState) == 0) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

#ifdef AEFAST_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

InstructionSet detect() {
#ifdef AEFAST_X86
    __builtin_cpu_init();
#ifdef AEFAST_AMX
    if (has_avx512() && request_amx()) return InstructionSet::amx;
#endif
    if (has_avx512()) return InstructionSet::avx512;
    if (has_avx2()) return InstructionSet::avx2;
#endif
    return InstructionSet::baseline;
}

InstructionSet active = detected_instruction_set();

}  // namespace

const char* name(InstructionSet instruction_set) {
    switch (instruction_set) {
        case InstructionSet::amx:
            return "amx";
        case InstructionSet::avx512:
            return "avx512";
        case InstructionSet::avx2:
            return "avx2";
        default:
            return "baseline";
    }
}

InstructionSet detected_instruction_set() {
    static const InstructionSet detected = detect();
    return detected;
}

std::vector<std::string> detected_features() {
    std::vector<std::string> features;
    for (auto set : {InstructionSet::baseline, InstructionSet::avx2, InstructionSet::avx512,
                     InstructionSet::amx}) {
        if (set <= detected_instruction_set()) features.emplace_back(name(set));
    }
    return features;
}

InstructionSet active_instruction_set() { return active; }

void cap_instruction_set(InstructionSet cap) { active = std::min(cap, detected_instruction_set()); }

}  // namespace aefast
