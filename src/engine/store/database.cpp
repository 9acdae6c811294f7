#include "src/engine/store/database.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <chrono>

#include "src/base/unique_fd.h"

namespace vmm::engine {
namespace {

constexpr int kPatienceMs = 30'000;
// Of the log that is written before the database. What is committed is moved into the database when
// the log has as many, and not at each command's end, as that takes three more syncs of the disk.
// The log stays, with room for what comes: where the disk is full, whoever makes room has to be
// able to note it. (Its index, of 32 KiB, is made anew by each first command. On btrfs a page that
// is written again takes new room.)
constexpr int kLogPages = 64;
constexpr off_t kLogRoom = 512 << 10;

// What fails here is told by the change that has no room later.
void keep_room(const std::string& log) {
  struct stat status{};
  if (::stat(log.c_str(), &status) < 0 || status.st_blocks * 512 >= kLogRoom) return;
  const UniqueFd file(::open(log.c_str(), O_WRONLY | O_CLOEXEC));
  if (file) (void)::fallocate(file.get(), FALLOC_FL_KEEP_SIZE, 0, kLogRoom);
}

std::unexpected<Error> fail_sqlite(sqlite3* connection) {
  if (sqlite3_errcode(connection) == SQLITE_BUSY) {
    return fail("the store's database is held by another command that does not go on");
  }
  return fail("the store's database: {}", sqlite3_errmsg(connection));
}

}  // namespace

void Statement::Finalize::operator()(sqlite3_stmt* statement) const {
  (void)sqlite3_finalize(statement);  // repeats the error of the last step
}

Statement& Statement::bind(int parameter, std::string_view text) {
  // Fails for a parameter that is not there only; step() then misses its value, as tests see.
  (void)sqlite3_bind_text64(statement_.get(), parameter, text.data(), text.size(), SQLITE_TRANSIENT,
                            SQLITE_UTF8);
  return *this;
}

Statement& Statement::bind(int parameter, std::int64_t number) {
  (void)sqlite3_bind_int64(statement_.get(), parameter, number);  // as above
  return *this;
}

Result<bool> Statement::step() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return fail_sqlite(sqlite3_db_handle(statement_.get()));
}

Result<void> Statement::run() {
  TRY(step());
  return {};
}

std::string Statement::text(int column) const {
  const auto* text = sqlite3_column_text(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  if (text == nullptr) return {};
  return {reinterpret_cast<const char*>(text), static_cast<std::size_t>(size)};
}

std::int64_t Statement::number(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

void Database::Close::operator()(sqlite3* connection) const { (void)sqlite3_close_v2(connection); }

Result<Database> Database::open(const std::string& path) {
  sqlite3* connection = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &connection,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  Database database(connection);
  if (code != SQLITE_OK) return fail("cannot open '{}': {}", path, sqlite3_errstr(code));
  (void)sqlite3_busy_timeout(connection, kPatienceMs);                                // never fails
  (void)sqlite3_db_config(connection, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);  // nor this
  (void)sqlite3_wal_autocheckpoint(connection, kLogPages);                            // nor this
  TRY(database.execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"));
  TRY(database.start_log());
  keep_room(path + "-wal");
  return database;
}

// Of a new database: for others that do the same, SQLite does not wait.
Result<void> Database::start_log() {
  using Clock = std::chrono::steady_clock;
  constexpr int kTurnMs = 10;
  for (const auto deadline = Clock::now() + std::chrono::milliseconds(kPatienceMs);;) {
    auto started = execute("PRAGMA journal_mode = WAL;");
    const bool is_busy = !started && sqlite3_errcode(connection_.get()) == SQLITE_BUSY;
    if (!is_busy || Clock::now() >= deadline) return started;
    (void)sqlite3_sleep(kTurnMs);
  }
}

Result<Statement> Database::prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(connection_.get(), sql.data(), static_cast<int>(sql.size()), &statement,
                         nullptr) != SQLITE_OK) {
    return fail_sqlite(connection_.get());
  }
  return Statement(statement);
}

Result<void> Database::execute(const std::string& sql) {
  if (sqlite3_exec(connection_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
    return fail_sqlite(connection_.get());
  }
  return {};
}

Result<void> Transaction::begin() {
  TRY(database_.execute("BEGIN IMMEDIATE"));
  open_ = true;
  return {};
}

Result<void> Transaction::commit() {
  TRY(database_.execute("COMMIT"));
  open_ = false;
  return {};
}

Transaction::~Transaction() {
  if (open_) (void)database_.execute("ROLLBACK");  // what fails here is rolled back by the close
}

}  // namespace vmm::engine
