// Database: SQLite, as Results. One connection a process and thread.
//
//   auto rows = TRY(database.prepare("SELECT id FROM image WHERE size > ?"));
//   rows.bind(1, 4096);
//   while (TRY(rows.step())) fmt::print("{}\n", rows.text(0));
//
//   Transaction change(database);
//   TRY(change.begin());
//   ...                                       // an early return rolls back
//   TRY(change.commit());
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "src/base/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace vmm::engine {

class Statement {
 public:
  // Parameters and columns, as SQLite counts: from 1, and from 0.
  Statement& bind(int parameter, std::string_view text);
  Statement& bind(int parameter, std::int64_t number);
  // Whether there is a row.
  Result<bool> step();
  // For what yields no rows.
  Result<void> run();
  std::string text(int column) const;
  std::int64_t number(int column) const;

 private:
  friend class Database;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

class Database {
 public:
  // Makes the file if it is missing: write-ahead log, synced at each commit, foreign keys held;
  // waits for other processes' changes.
  static Result<Database> open(const std::string& path);

  Result<Statement> prepare(std::string_view sql);
  Result<void> execute(const std::string& sql);  // one or more statements without parameters

 private:
  struct Close {
    void operator()(sqlite3* connection) const;
  };
  explicit Database(sqlite3* connection) : connection_(connection) {}
  Result<void> start_log();
  std::unique_ptr<sqlite3, Close> connection_;
};

class Transaction {
 public:
  explicit Transaction(Database& database) : database_(database) {}
  Transaction(const Transaction&) = delete;
  ~Transaction();

  Result<void> begin();  // takes the right to write at once, so that no later step can be refused
  Result<void> commit();

 private:
  Database& database_;
  bool open_ = false;
};

}  // namespace vmm::engine
