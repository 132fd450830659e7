// Package leaktest fails the tests of a package that leave goroutines behind.
package leaktest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is for goroutines that have been told to end, on a machine that has
// other things to do. goleak by itself waits for half a second.
const patience = time.Minute

// Run runs a package's tests and returns what TestMain exits with, which is not 0
// if goroutines are left that do not end by themselves.
func Run(m *testing.M) int {
	code := m.Run()
	if code != 0 {
		return code
	}
	for deadline := time.Now().Add(patience); ; {
		err := goleak.Find()
		if err == nil {
			return 0
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "after all tests: %v\n", err)
			return 1
		}
	}
}
