package compiler

// parsedArg is one classified argument.
type parsedArg struct{}
