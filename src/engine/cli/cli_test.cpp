#include <gtest/gtest.h>

#include "src/engine/cli/command_table.h"
#include "src/engine/cli/copy_rules.h"
#include "src/engine/cli/go_template.h"
#include "src/engine/cli/image_change.h"
#include "src/engine/cli/rows.h"
#include "src/engine/cli/units.h"
#include "src/engine/cli/words.h"

namespace vmm::engine::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string render(std::string_view text, const Json& value) {
  const auto parsed = GoTemplate::parse(text);
  if (!parsed) return parsed.error().message();
  const auto rendered = parsed->render(value);
  return rendered ? *rendered : rendered.error().message();
}

const Json kImage = {
    {"Id", "sha256:abc"},
    {"Size", 5},
    {"Config",
     {{"Env", {"A=1", "B=2"}}, {"Cmd", nullptr}, {"Labels", {{"z", "last"}, {"a", "first"}}}}}};

TEST(GoTemplate, RendersWhatPeopleType) {
  const auto check = [](std::string_view text, std::string_view expected) {
    EXPECT_EQ(render(text, kImage), expected) << text;
  };
  check("plain", "plain");
  check("{{.Id}}", "sha256:abc");
  check("{{ .Size }} {{.None}}", "5 <no value>");
  check("{{json .Config.Env}}", R"(["A=1","B=2"])");
  check("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[a:first z:last]");
  check("{{join .Config.Env \", \"}}", "A=1, B=2");
  check("{{index .Config.Env 1}} {{index .Config.Labels \"z\"}}", "B=2 last");
  check("{{index .Config \"Env\" 0}}", "A=1");
  check("{{- range .Config.Env -}}{{- println . -}}{{- end -}}", "A=1\nB=2\n");
  check("{{range $i, $e := .Config.Env}}{{$i}}:{{$e}} {{end}}", "0:A=1 1:B=2 ");
  check("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a=first;z=last;");
  check("{{range .Config.Cmd}}x{{else}}none{{end}}", "none");
  check("{{if .Config.Cmd}}yes{{else}}no{{end}}", "no");
  check("{{if eq .Size 4}}a{{else if eq .Size 5 6}}b{{else}}c{{end}}!", "b!");
  check("{{if and .Id (gt .Size 3)}}yes{{end}}", "yes");
  check("{{with .Config}}{{len .Env}}{{end}} {{$.Id}}", "2 sha256:abc");
  check("{{$x := .Size}}{{if true}}{{$x}}{{end}}", "5");
  check("{{.Id | upper | printf \"%s!%d\" | len}}", "23");
  check("{{upper .Id}} {{lower \"AB\"}} {{title \"ab cd\"}}", "SHA256:ABC ab Ab Cd");
  check("{{range split .Id \":\"}}[{{.}}]{{end}}", "[sha256][abc]");
  check("{{slice .Id 7}} {{truncate .Id 3}} {{pad \"x\" 1 2}}|", "abc sha  x  |");
  check("{{printf \"%s %v %d %q %%\" .Id .Size .Size \"a\"}}", "sha256:abc 5 5 \"a\" %");
  check("{{json \"<&>\"}}", R"("\u003c\u0026\u003e")");
  check("{{/* nothing */}}{{\"}}\"}}{{`\\n`}}", "}}\\n");
  check("{{not .Config.Cmd}} {{ne 1 2}} {{or .Config.Cmd \"or\"}}", "true true or");
}

TEST(GoTemplate, SaysWhatIsWrong) {
  for (const auto* text : {"{{",
                           "{{.Id",
                           "{{if .Id}}",
                           "{{end}}",
                           "{{else}}",
                           "{{nothing}}",
                           "{{.Id.Field}}",
                           "{{|}}",
                           "{{index .Config.Env 9}}",
                           "{{range .Size}}{{end}}",
                           "{{(}}",
                           "{{\"}}",
                           "{{$none}}",
                           "{{join .Id}}",
                           "{{lt 1 \"a\"}}",
                           "{{pad \"x\" 9999999 1}}",
                           "{{printf 1}}",
                           "{{1 2}}",
                           "{{slice \"ab\" 3}}",
                           "{{if .}}{{else if .}}"}) {
    EXPECT_TRUE(render(text, kImage).starts_with("template")) << text << render(text, kImage);
  }
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{{if 1}}";
  EXPECT_TRUE(render(deep, kImage).starts_with("template"));
  EXPECT_TRUE(render("{{" + std::string(100'000, '('), kImage).starts_with("template"));
}

TEST(Rows, AreAligned) {
  RowFormat format;
  format.table = "{{.Name}}\t{{.Size}}";
  format.headers = {{"Name", "NAME"}, {"Size", "SIZE"}};
  const std::vector<Json> rows = {{{"Name", "a-long-name"}, {"Size", "1B"}},
                                  {{"Name", "\u00fc"}, {"Size", "22B"}}};
  EXPECT_EQ(*format_rows(format, rows),
            "NAME          SIZE\na-long-name   1B\n\u00fc             22B\n");
  EXPECT_EQ(*format_rows(format, {}), "NAME      SIZE\n");
  format.format = "table {{.Size}}\\t{{.Name}}";
  EXPECT_EQ(*format_rows(format, rows),
            "SIZE      NAME\n1B        a-long-name\n22B       \u00fc\n");
  format.format = "{{.Size}}";
  EXPECT_EQ(*format_rows(format, rows), "1B\n22B\n");
  format.format = "json";
  EXPECT_EQ(*format_rows(format, {rows[0]}), "{\"Name\":\"a-long-name\",\"Size\":\"1B\"}\n");
  format.format = "{{";
  EXPECT_FALSE(format_rows(format, rows));
}

TEST(Units, AreDockers) {
  EXPECT_EQ(human_size(0), "0B");
  EXPECT_EQ(human_size(999), "999B");
  EXPECT_EQ(human_size(4'261'550), "4.26MB");
  EXPECT_EQ(human_size(187'000'000), "187MB");
  EXPECT_EQ(human_size(1'500), "1.5kB");
  EXPECT_EQ(human_duration(0), "Less than a second");
  EXPECT_EQ(human_duration(1), "1 second");
  EXPECT_EQ(human_duration(59), "59 seconds");
  EXPECT_EQ(human_duration(119), "About a minute");
  EXPECT_EQ(human_duration(59 * 60), "59 minutes");
  EXPECT_EQ(human_duration(65 * 60), "About an hour");
  EXPECT_EQ(human_duration(47 * 3600), "47 hours");
  EXPECT_EQ(human_duration(3 * 86400), "3 days");
  EXPECT_EQ(human_duration(20 * 86400), "2 weeks");
  EXPECT_EQ(human_duration(100 * 86400), "3 months");
  EXPECT_EQ(human_duration(1000 * 86400), "2 years");
  EXPECT_EQ(human_age(100, 103), "3 seconds ago");
}

constexpr std::array kOptions = {
    Option{'a', "all", "", "help"}, Option{'f', "filter", "filter", "help"},
    Option{0, "format", "string", "help"}, Option{'q', "quiet", "", "help"}};
constexpr Command kCommand = {"test", "", "", "", 0, kAnyNumber, kOptions};

TEST(Words, AreTakenAsDockerDoes) {
  const std::vector<std::string> arguments = {
      "-aq", "x", "--format=json", "-f", "a=b", "--filter", "c", "-fd=e", "-", "--", "-z"};
  const auto words = Words::parse(kCommand, arguments);
  ASSERT_TRUE(words) << words.error().message();
  EXPECT_TRUE(words->has("all") && words->has("quiet"));
  EXPECT_EQ(words->text("format"), "json");
  EXPECT_EQ(words->list("filter"), (std::vector<std::string>{"a=b", "c", "d=e"}));
  EXPECT_EQ(words->names(), (std::vector<std::string>{"x", "-", "-z"}));
  const std::vector<std::string> off = {"--all", "--all=false"};
  EXPECT_FALSE(Words::parse(kCommand, off)->has("all"));
  const std::vector<std::string> short_off = {"-qa=false"};
  const auto some = Words::parse(kCommand, short_off);
  EXPECT_TRUE(some && some->has("quiet") && !some->has("all"));
}

TEST(Words, AreRefusedAsDockerDoes) {
  const auto error_of = [](std::vector<std::string> arguments) {
    const auto words = Words::parse(kCommand, arguments);
    return words ? "" : words.error().message();
  };
  EXPECT_EQ(error_of({"--foo"}), "unknown flag: --foo");
  EXPECT_EQ(error_of({"-az"}), "unknown shorthand flag: 'z' in -az");
  EXPECT_EQ(error_of({"--format"}), "flag needs an argument: --format");
  EXPECT_EQ(error_of({"-f"}), "flag needs an argument: 'f' in -f");
  EXPECT_NE(error_of({"--all=perhaps"}), "");
}

TEST(ImageChange, SetsTheConfiguration) {
  nlohmann::json config = {{"Env", {"A=1", "PATH=/bin"}}, {"WorkingDir", "/srv"}};
  for (const char* change :
       {"cmd echo a  b", "ENTRYPOINT [\"/run\", \"it\"]", "ENV A=2 B=\"x y\" C=\\$z",
        "ENV D all of it", "LABEL a=b 'c d'=e", "EXPOSE 80 53/udp", "VOLUME [\"/data\"]",
        "USER 1:2", "WORKDIR deep", "WORKDIR er", "STOPSIGNAL INT", "ONBUILD RUN x"}) {
    const auto applied = apply_change(config, change);
    EXPECT_TRUE(applied) << applied.error().message();
  }
  EXPECT_EQ(config.dump(),
            R"({"Cmd":["/bin/sh","-c","echo a  b"],"Entrypoint":["/run","it"],)"
            R"("Env":["A=2","PATH=/bin","B=x y","C=$z","D=all of it"],)"
            R"("ExposedPorts":{"53/udp":{},"80/tcp":{}},"Labels":{"a":"b","c d":"e"},)"
            R"("OnBuild":["RUN x"],"StopSignal":"INT","User":"1:2","Volumes":{"/data":{}},)"
            R"("WorkingDir":"/srv/deep/er"})");
  const auto error_of = [&config](const std::string& change) {
    const auto applied = apply_change(config, change);
    return applied ? "" : applied.error().message();
  };
  const std::string expected =
      " is not a valid change command: expected CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, "
      "ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR";
  EXPECT_EQ(error_of("FROM x"), "FROM" + expected);
  EXPECT_EQ(error_of(""), "''" + expected);
  EXPECT_EQ(error_of("FOO=1"), "FOO=1" + expected);
  EXPECT_EQ(error_of("USER"), "USER requires at least one argument");
  EXPECT_EQ(error_of("ENV =x"), "'=x' is not of the form name=value");
  EXPECT_EQ(error_of("EXPOSE web"), "invalid containerPort: web");
  EXPECT_EQ(error_of("EXPOSE 0"), "invalid containerPort: 0");
  EXPECT_EQ(error_of("EXPOSE 65536/udp"), "invalid containerPort: 65536/udp");
  EXPECT_EQ(error_of("EXPOSE 9-8"), "invalid containerPort: 9-8");
  EXPECT_EQ(error_of("EXPOSE 80/icmp"),
            "invalid proto 'icmp' of '80/icmp': expected tcp, udp or sctp");
  EXPECT_EQ(error_of("STOPSIGNAL NONE"), "invalid signal: NONE");
  nlohmann::json ports;
  EXPECT_TRUE(apply_change(ports, "EXPOSE 8000-8002/udp"));
  EXPECT_EQ(ports.dump(), R"({"ExposedPorts":{"8000/udp":{},"8001/udp":{},"8002/udp":{}}})");
}

TEST(ImageChange, HealthChecks) {
  const auto health_of = [](const std::string& text) {
    nlohmann::json config;
    const auto applied = apply_change(config, "HEALTHCHECK " + text);
    return applied ? config["Healthcheck"].dump() : applied.error().message();
  };
  EXPECT_EQ(health_of("NONE"), R"({"Test":["NONE"]})");
  EXPECT_EQ(health_of("cmd curl -f http://x/ || exit 1"),
            R"({"Test":["CMD-SHELL","curl -f http://x/ || exit 1"]})");
  EXPECT_EQ(health_of("--interval=1m30s  --timeout=500ms --start-period=0s --start-interval=2s "
                      "--retries=3 CMD [\"/check\", \"a b\"]"),
            R"({"Interval":90000000000,"Retries":3,"StartInterval":2000000000,"StartPeriod":0,)"
            R"("Test":["CMD","/check","a b"],"Timeout":500000000})");
  EXPECT_EQ(health_of("CMD"), "missing command after HEALTHCHECK CMD");
  EXPECT_EQ(health_of("NONE x"), "HEALTHCHECK NONE takes no arguments");
  EXPECT_EQ(health_of("curl x"), "unknown type 'CURL' in HEALTHCHECK: expected CMD or NONE");
  EXPECT_EQ(health_of("--retries=x CMD y"), "invalid --retries of HEALTHCHECK: 'x'");
  EXPECT_EQ(health_of("--often CMD y"), "unknown option of HEALTHCHECK: --often");
  for (const std::string text : {"", "3", "s", "1d", "-1s", "1us", "9999999999h", "1.5s"}) {
    EXPECT_EQ(health_of("--timeout=" + text + " CMD y"),
              "invalid duration '" + text + "': expected for example 30s, 1m30s or 500ms");
  }
}

TEST(CopyRules, NamesOfTheCommandLine) {
  const auto parsed = [](const std::string& word) {
    const auto name = parse_copy_name(word);
    return name.container + "|" + name.path;
  };
  EXPECT_EQ(parsed("web:/etc"), "web|/etc");
  EXPECT_EQ(parsed("web:a:b"), "web|a:b");
  EXPECT_EQ(parsed("file"), "|file");
  EXPECT_EQ(parsed("./web:etc"), "|./web:etc");
  EXPECT_EQ(parsed("/a:b"), "|/a:b");
  EXPECT_EQ(parsed("-"), "|-");
  EXPECT_EQ(parsed("web:"), "web|");
}

TEST(CopyRules, Paths) {
  const auto described = [](const std::string& text) {
    const auto path = CopyPath::clean(text, "/base");
    return path.path + " " + path.parent() + " " + path.name();
  };
  EXPECT_EQ(described("/srv/./a/../b"), "/srv/b /srv b");
  EXPECT_EQ(described("b"), "/base/b /base b");
  EXPECT_EQ(described("b/"), "/base/b/ /base b");
  EXPECT_EQ(described("b/."), "/base/b/. /base/b .");
  EXPECT_EQ(described("."), "/base/. /base .");
  EXPECT_EQ(described(".."), "/ / .");
  EXPECT_EQ(described("../../../x"), "/x / x");
  EXPECT_EQ(described("/"), "/ / .");
  EXPECT_EQ(described("/."), "/. / .");
}

TEST(CopyRules, Targets) {
  const auto target = [](const std::string& name, bool is_directory, const std::string& to,
                         Existing existing) {
    const auto found = copy_target(name, is_directory, CopyPath::clean(to, "/"), existing);
    return found ? found->directory + " " + found->name : found.error().message();
  };
  EXPECT_EQ(target("a", false, "/to", Existing::directory), "/to a");
  EXPECT_EQ(target("a", true, "/to", Existing::directory), "/to a");
  EXPECT_EQ(target("a", false, "/to/b", Existing::other), "/to b");
  EXPECT_EQ(target("a", true, "/to/b", Existing::other), "cannot copy directory");
  EXPECT_EQ(target("a", true, "/to/b/", Existing::nothing), "/to b");
  EXPECT_EQ(target(".", true, "/to/b", Existing::nothing), "/to b");
  EXPECT_EQ(target("a", false, "/to/b", Existing::nothing), "/to b");
  EXPECT_EQ(target("a", false, "/to/b/", Existing::nothing), "no such directory");
}

}  // namespace
}  // namespace vmm::engine::cli
