// Sizes and times in the words of Docker's tables.
#pragma once

#include <cstdint>
#include <string>

namespace vmm::engine::cli {

// "4.26MB": so many digits, powers of 1000.
std::string human_size(std::uint64_t bytes, int digits = 3);
std::string human_duration(std::int64_t seconds);  // "About a minute", "3 weeks"
// "3 weeks ago"; "" for a time that an image does not say.
std::string human_age(std::int64_t created, std::int64_t now);
std::string local_time(std::int64_t seconds);  // "2026-11-30 00:00:00 +0000 UTC"

}  // namespace vmm::engine::cli
