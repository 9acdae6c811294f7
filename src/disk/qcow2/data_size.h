// data_size(): how much of a disk is to be read, before work on it begins.
#pragma once

#include <cstdint>
#include <expected>

#include "src/base/progress.h"
#include "src/disk/qcow2/chain.h"

namespace vmm::disk::qcow2 {

// Bytes that are neither holes nor zeroes by the tables of the image and of all behind it: nothing
// but tables is read. Error: an errno, or kCancelled.
std::expected<std::uint64_t, int> data_size(Chain& disk, Progress& progress);

}  // namespace vmm::disk::qcow2
