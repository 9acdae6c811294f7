// check_image(): counts what the tables of an image refer to, and compares it with its refcounts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"

namespace vmm::disk::qcow2 {

struct CheckResult {
  std::uint64_t clusters = 0;     // of the disk
  std::uint64_t allocated = 0;    // of these, with data in this file
  std::uint64_t leaks = 0;        // clusters of the file that are counted too often: space is lost
  std::uint64_t corruptions = 0;  // all else: data is or may get lost
  std::uint64_t repaired = 0;     // refcounts that were set right
  bool was_dirty = false;
  std::vector<std::string> messages;  // the first corruptions, in words

  bool is_clean() const { return leaks == 0 && corruptions == 0; }
};

enum class Repair : std::uint8_t {
  none,
  // Leaked clusters are freed. Where the image says that its refcounts are out of date (the dirty
  // bit), all of them are made anew. What is repaired no longer counts.
  leaks,
};

// It is cancelled while it counts and compares, not while it repairs.
Result<CheckResult> check_image(const std::string& path, Repair repair = Repair::none,
                                Progress& progress = Progress::none());

}  // namespace vmm::disk::qcow2
