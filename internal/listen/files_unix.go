//go:build unix

package listen

import "syscall"

// openFiles returns how many files this process may have open, or 0 if that is not known.
// A connection is one of them. Go has raised the limit as far as it may.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return uint64(limit.Cur)
}
