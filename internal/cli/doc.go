// Package cli is the command line of Turnout: every command, its flags and its output, over injected readers and
// writers. Run is the only entry; cmd/turnout calls it and nothing else.
//
// Each command is built by a function new…Command(a *app) in the file of its name and listed in newRootCommand.
// What a command prints on success goes to stdout, notes and errors go to stderr, an error is one line. The exit code
// follows from the error alone (exitCode).
package cli
