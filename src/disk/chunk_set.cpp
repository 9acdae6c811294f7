#include "src/disk/chunk_set.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>

namespace vmm::disk {
namespace {

constexpr unsigned kWordBits = 64;
constexpr unsigned kLeastPageBits = 18;  // 32 KiB
constexpr unsigned kMostPages = 16;      // as a power of two

std::uint64_t bit_of(std::uint64_t number) { return std::uint64_t{1} << number % kWordBits; }

}  // namespace

// However large the set, its list of pages is short; a large page is backed bit by bit.
ChunkSet::ChunkSet(std::uint64_t size)
    : size_(size),
      page_bits_(
          std::max(kLeastPageBits, static_cast<unsigned>(std::bit_width(size >> kMostPages)))),
      pages_((size >> page_bits_) + 1) {}

std::uint64_t* ChunkSet::make_page(std::uint64_t index) {
  const std::size_t words = (std::size_t{1} << page_bits_) / kWordBits;
  auto* made = static_cast<std::uint64_t*>(std::calloc(words, sizeof(std::uint64_t)));
  if (made == nullptr) throw std::bad_alloc();
  std::uint64_t* there = nullptr;
  if (pages_[index].compare_exchange_strong(there, made, std::memory_order_acq_rel)) return made;
  std::free(made);  // another thread was first
  return there;
}

bool ChunkSet::contains(std::uint64_t number) const {
  auto* page = pages_[number >> page_bits_].load(std::memory_order_acquire);
  if (page == nullptr) return false;
  const std::uint64_t within = number & ((std::uint64_t{1} << page_bits_) - 1);
  const std::atomic_ref word(page[within / kWordBits]);
  return (word.load(std::memory_order_relaxed) & bit_of(number)) != 0;
}

void ChunkSet::insert(std::uint64_t number) {
  auto* page = pages_[number >> page_bits_].load(std::memory_order_acquire);
  if (page == nullptr) page = make_page(number >> page_bits_);
  const std::uint64_t within = number & ((std::uint64_t{1} << page_bits_) - 1);
  const std::atomic_ref word(page[within / kWordBits]);
  // Read first: a cache line that nobody writes to is everybody's.
  if ((word.load(std::memory_order_relaxed) & bit_of(number)) == 0) {
    word.fetch_or(bit_of(number), std::memory_order_relaxed);
  }
}

std::uint64_t ChunkSet::next(std::uint64_t number) const {
  const std::uint64_t in_page = std::uint64_t{1} << page_bits_;
  while (number < size_) {
    auto* page = pages_[number >> page_bits_].load(std::memory_order_acquire);
    if (page == nullptr) {
      number = (number | (in_page - 1)) + 1;
      continue;
    }
    const std::atomic_ref word(page[(number & (in_page - 1)) / kWordBits]);
    const std::uint64_t rest = word.load(std::memory_order_relaxed) >> number % kWordBits;
    if (rest != 0) return number + static_cast<unsigned>(std::countr_zero(rest));
    number = (number | (kWordBits - 1)) + 1;
  }
  return size_;
}

void ChunkSet::clear() {
  for (auto& page : pages_) std::free(page.exchange(nullptr));
}

void ChunkSet::assign(const ChunkSet& other) {
  clear();
  for (std::size_t i = 0; i < pages_.size(); ++i) {
    const auto* from = other.pages_[i].load(std::memory_order_acquire);
    if (from == nullptr) continue;
    auto* to = make_page(i);
    const std::size_t words = (std::size_t{1} << page_bits_) / kWordBits;
    for (std::size_t word = 0; word < words; ++word) {
      if (from[word] != 0) to[word] = from[word];  // what is not touched is not backed
    }
  }
}

}  // namespace vmm::disk
