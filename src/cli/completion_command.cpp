#include <functional>

#include <CLI/App.hpp>

#include "cli/command.hpp"
#include "cli/report.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

/// An option as a shell sees it.
struct Word {
  std::string name;         ///< `--loss`
  std::string description;  ///< one line
  std::string value;        ///< `FILE`, `N`, `mean|sum`; empty for a flag

  bool has_alternatives() const { return value.find('|') != std::string::npos; }
};

std::vector<const CLI::App*> commands_of(const CLI::App& tool) {
  return tool.get_subcommands([](const CLI::App*) { return true; });
}

std::vector<Word> words_of(const CLI::App& command) {
  std::vector<Word> words;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty()) continue;
    const bool is_flag = option->get_items_expected_max() == 0;
    words.push_back({"--" + option->get_lnames().front(), option->get_description(),
                     is_flag ? std::string() : option->get_type_name()});
  }
  return words;
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size()) {
    text.replace(at, what.size(), by);
  }
  return text;
}

std::string names_of(const std::vector<Word>& words) {
  std::vector<std::string> names;
  for (const Word& word : words) names.push_back(word.name);
  return fmt::format("{}", fmt::join(names, " "));
}

std::string bash_completion(const CLI::App& tool) {
  std::vector<std::string> commands;
  std::string values, options;
  for (const CLI::App* command : commands_of(tool)) {
    const std::string& name = command->get_name();
    const std::vector<Word> words = words_of(*command);
    commands.push_back(name);
    options += fmt::format("    {}) words='{}' ;;\n", name, names_of(words));
    for (const Word& word : words) {
      if (!word.has_alternatives()) continue;
      values += fmt::format("    '{} {}') words='{}' ;;\n", name, word.name,
                            replaced(word.value, "|", " "));
    }
  }
  options += "    completion) words='bash zsh' ;;\n";
  return fmt::format(R"(# bash completion for curvature
_curvature() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[1]}}" words=''
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '{} {}' -- "$current"))
    return
  fi
  case "$command $previous" in
{}  esac
  if [[ -z $words && ($current == -* || $command == completion) ]]; then
    case "$command" in
{}    esac
  fi
  if [[ -n $words ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  fi
}}
complete -o default -F _curvature curvature
)",
                     fmt::join(commands, " "), names_of(words_of(tool)), values, options);
}

/// Text between the brackets and colons of zsh's _arguments.
std::string zsh_escaped(std::string text) {
  for (const std::string special : {"\\", "[", "]", ":"})
    text = replaced(text, special, "\\" + special);
  return replaced(text, "'", "'\\''");
}

std::string zsh_word(const Word& word) {
  std::string action;
  if (word.has_alternatives()) {
    action = fmt::format(":value:({})", replaced(word.value, "|", " "));
  } else if (word.value.starts_with("FILE")) {
    action = ":file:_files";
  } else if (!word.value.empty()) {
    action = fmt::format(":{}: ", zsh_escaped(word.value));
  }
  // The star lets an option be given again, as --inputs and --parameters may be.
  return fmt::format("        '*{}[{}]{}'", word.name, zsh_escaped(word.description), action);
}

std::string zsh_completion(const CLI::App& tool) {
  std::vector<std::string> commands, cases;
  for (const CLI::App* command : commands_of(tool)) {
    commands.push_back(
        fmt::format("    '{}:{}'", command->get_name(), zsh_escaped(command->get_description())));
    std::vector<std::string> words;
    for (const Word& word : words_of(*command)) words.push_back(zsh_word(word));
    if (command->get_name() == "completion") words.push_back("        ':shell:(bash zsh)'");
    cases.push_back(fmt::format("    {})\n      _arguments \\\n{} ;;", command->get_name(),
                                fmt::join(words, " \\\n")));
  }
  return fmt::format(R"(#compdef curvature
_curvature() {{
  local -a commands=(
{}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case $command in
{}
  esac
}}
if [[ $funcstack[1] == _curvature ]]; then
  _curvature "$@"
else
  compdef _curvature curvature
fi
)",
                     fmt::join(commands, "\n"), fmt::join(cases, "\n"));
}

}  // namespace

void add_completion_command(CLI::App& tool) {
  CLI::App* command = tool.add_subcommand("completion", "shell completion: a script to be sourced");
  auto shell = std::make_shared<std::string>();
  command->add_option("shell", *shell, "bash or zsh")
      ->required()
      ->type_name("bash|zsh")
      ->check(one_of({"bash", "zsh"}));
  command->callback([shell, &tool] {
    print_text(*shell == "bash" ? bash_completion(tool) : zsh_completion(tool));
  });
}

}  // namespace curvature::cli
