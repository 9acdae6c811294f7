// Registry: documents and blobs of one repository, by the distribution project's API (version 2).
//
// Who asks is answered 401 with a challenge: Basic takes the credentials, Bearer a token of the
// realm that it names. Broken downloads go on where they broke (Range), broken uploads begin again.
#pragma once

#include <functional>
#include <string>

#include "src/engine/image/manifest.h"
#include "src/engine/image/reference.h"
#include "src/engine/registry/credentials.h"
#include "src/engine/registry/http.h"
#include "src/engine/store/content_store.h"

namespace vmm::engine {

struct Document {
  std::string text;
  Digest digest;
};

enum class Access : std::uint8_t { pull, push };

class Registry {
 public:
  Registry(const Reference& reference, std::optional<Credentials> credentials,
           Access access = Access::pull, std::chrono::seconds patience = std::chrono::seconds(30));

  // By a tag or a digest. Error: in Docker's words where the registry has none; a digest mismatch.
  Result<Document> manifest(const std::string& tag_or_digest);
  // Whole, of the size and digest that its descriptor says. Its phase is
  // "Downloading"; cancelled, it leaves nothing.
  Result<BlobWriter::Written> blob(const ContentStore& content, const Descriptor& descriptor,
                                   Progress& progress);

  Result<bool> has_blob(const Digest& digest);
  // From the beginning of `fd`. Its phase is "Pushing".
  Result<void> upload_blob(const Descriptor& descriptor, int fd, Progress& progress);
  Result<void> upload_manifest(const std::string& tag, const Document& document,
                               const std::string& media_type);
  // Whether the registry takes the credentials; of the reference only its name counts. Error: in
  // Docker's words.
  Result<void> log_in();

 private:
  Result<HttpResponse> send(HttpRequest request);
  Result<HttpResponse> upload_once(const Descriptor& descriptor, int fd, Progress& progress);
  Result<void> find_scheme();
  Result<void> answer_challenge(const std::string& challenge);
  std::string url(std::string_view path) const;

  Http http_;
  Reference reference_;
  std::optional<Credentials> credentials_;
  Access access_;
  std::string base_;           // "https://registry-1.docker.io"
  std::string authorization_;  // "Bearer ..."
};

}  // namespace vmm::engine
