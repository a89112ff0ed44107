// Command chulengo runs Llama 4 checkpoints: a chat page, chats in the terminal, raw generation with a look inside, and
// the tools around them. `chulengo help` lists them.
//
// # Options
//
// Every option has one name in three spellings: the flag --max-tokens, the environment variable CHULENGO_MAX_TOKENS and
// the key max_tokens of the file that --config names (YAML, TOML or JSON). A flag beats the environment, that the file,
// that the default; `chulengo config show` prints what is in force and why.
//
// # Exit codes
//
//	0    done
//	1    failed: the error says what
//	2    wrong usage: an unknown option or command, a value out of range
//	3    the checkpoint cannot be used: not found, damaged, not Llama 4, no tokenizer where one is needed
//	4    something that others hold: the port, the data folder, a download
//	130  interrupted (Ctrl-C); 143 terminated
//
// Answers go to standard output, everything else to standard error. Messages are Chinese or English, as LC_ALL,
// LC_MESSAGES or LANG say, or --lang.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], system()))
}
