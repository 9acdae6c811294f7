#include "src/hypervisor/snapshot/archive_reader.h"

#include <filesystem>

#include "src/base/log.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/packed_memory.h"
#include "src/hypervisor/snapshot/reader.h"

namespace vmm::snapshot {
namespace {

// Bytes of decoded frames that are kept while disks are unpacked: their pages are in order.
constexpr std::size_t kKeptFrames = 16u << 20;

// What is wrong with a frame has the archive's name already.
Error named(const std::string& path, const Error& error) {
  const auto name = fmt::format("archive '{}': ", path);
  return error.message().starts_with(name) ? error : Error(name + error.message());
}

}  // namespace

Result<std::unique_ptr<ArchiveReader>> ArchiveReader::open(const std::string& file) {
  std::unique_ptr<ArchiveReader> reader(new ArchiveReader(file));
  reader->chain_.push_back(TRY(Archive::open(file)));
  if (const auto result = reader->read(); !result) {
    return std::unexpected(named(file, result.error()));
  }
  return reader;
}

Result<void> ArchiveReader::read() {
  const auto& archive = *chain_.back();
  manifest_ = archive.manifest();
  if (manifest_.architecture != host_architecture()) {
    return fail("it is of an {} machine, this host is {}", manifest_.architecture,
                host_architecture());
  }
  if (!archive.header().base.empty()) {
    return fail("it builds on the archive with the digest {}: `vmm snapshot import` takes both",
                archive.header().base);
  }
  digest_ = TRY(digest_in(archive.index().manifest));
  sections_ = TRY(state::Sections::from_bytes(TRY(read_state(chain_))));
  TRY(sections_.take<MemoryLayer>(kMemorySection));
  std::error_code error;
  const auto beside = std::filesystem::absolute(path_, error).parent_path().string();
  for (std::size_t i = 0; i < manifest_.files().size(); ++i) {
    files_.push_back(TRY(open_unnamed_file(beside)));
  }
  return {};
}

Source::DiskFile ArchiveReader::disk_file(const DiskEntry& disk) const {
  const auto kept = manifest_.files();
  const auto at = std::ranges::find(kept, disk.file, &KeptFile::name);
  const auto index = static_cast<std::size_t>(at - kept.begin());
  return {.path = fmt::format("/proc/self/fd/{}", files_.at(index).get()),
          .label = fmt::format("{}:{}", path_, disk.device),
          .is_private = true};
}

Result<std::vector<UniqueFd>> ArchiveReader::unpack_disks() {
  if (const auto result = unpack(); !result) {
    return std::unexpected(named(path_, result.error()));
  }
  auto next = files_.begin();
  for (const auto& file : manifest_.boot) {
    (file.name == kKernelFile ? boot_.kernel : boot_.initrd) = std::move(*next++);
  }
  note_times(boot_);
  files_.erase(files_.begin(), next);
  return std::move(files_);
}

Result<void> ArchiveReader::unpack() const {
  PageStore pages(chain_, kKeptFrames);
  const auto& packed = chain_.back()->index().files;
  const auto kept = manifest_.files();
  // The file `state` comes first, the memory last. The files lie all in the same place.
  if (!kept.empty()) {
    TRY(check_room(files_[0].get(), std::span(packed).subspan(1, kept.size()), path_));
  }
  for (std::size_t i = 0; i < kept.size(); ++i) {
    TRY(unpack_file(pages, packed[i + 1], kept[i].digest, &files_[i]));
  }
  return {};
}

Result<ProvidedMemory> ArchiveReader::provide_memory(PageServer::OnDamage on_damage) {
  auto provided = ProvidedMemory{TRY(GuestMemory::create(manifest_.memory)), nullptr};
  const auto packed = std::make_shared<const PackedMemory>(std::move(chain_.back()));
  chain_.clear();
  auto server = PageServer::start(packed, *provided.memory, std::move(on_damage));
  if (server) {
    provided.server = std::move(*server);
    return provided;
  }
  log::info(
      "archive '{}': its memory is unpacked before the start, as this host does not permit "
      "to do it page by page: {}",
      path_, server.error().message());
  TRY(packed->fill(*provided.memory));
  return provided;
}

Result<std::unique_ptr<Source>> open_source(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error)) return TRY(ArchiveReader::open(path));
  return TRY(Reader::open(path));
}

}  // namespace vmm::snapshot
