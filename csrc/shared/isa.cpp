#include "shared/isa.h"

#include <algorithm>

#ifdef AEFAST_X86
#include <cpuid.h>
#endif

#ifdef AEFAST_AMX
#include "shared/tiles.h"
#endif

namespace aefast {
namespace {

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

Processor processor() {
#ifdef AEFAST_X86
    unsigned int highest, vendor[3], signature, ignored;
    __get_cpuid(0, &highest, &vendor[0], &vendor[2], &vendor[1]);
    __get_cpuid(1, &signature, &ignored, &ignored, &ignored);
    const int base_family = signature >> 8 & 15, base_model = signature >> 4 & 15;
    const int family = base_family + (base_family == 15 ? signature >> 20 & 255 : 0);
    const bool has_more = base_family == 15 || base_family == 6;
    const int model = base_model + (has_more ? (signature >> 16 & 15) << 4 : 0);
    return {std::string(reinterpret_cast<const char*>(vendor), sizeof vendor), family, model};
#else
    return {"", 0, 0};
#endif
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
