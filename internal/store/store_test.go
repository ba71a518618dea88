package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"realtime/internal/visitor"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, (&visitor.Log{}).Logger())
	require.NoError(t, err)
	return s
}

// Each life of a process has its own count, and simultaneous counts share a write.
func TestStore_KeepsTheHighestCountOfEachLife(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counts")
	s := open(t, path)
	writes := func() int64 { stats := s.db.Stats(); return stats.TxStats.GetWrite() }
	before := writes()
	s.mu.Lock() // as if a count were being written
	var keeping sync.WaitGroup
	for n := range int64(1000) {
		keeping.Go(func() { s.Keep("first", n+1) })
	}
	require.Eventually(t, func() bool { return s.latest.raise(0) == 1000 }, visitor.Soon, time.Millisecond)
	s.mu.Unlock()
	keeping.Wait()
	assert.Less(t, writes()-before, int64(20), "pages written for 1,000 counts")
	s.Keep("first", 7) // arrives late
	require.NoError(t, s.Close())

	s = open(t, path)
	assert.Equal(t, map[string]int64{"first": 1000}, s.Counts())
	s.Keep("second", 1)
	require.NoError(t, s.Close())
	s = open(t, path)
	defer s.Close()
	assert.Equal(t, map[string]int64{"first": 1000, "second": 1}, s.Counts())
}

// A file that is not usable is refused in one line, and not changed.
func TestOpen_RefusesUnusableFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	valid := open(t, file("valid"))
	valid.Keep("a life", 12)
	require.NoError(t, valid.Close())
	content, err := os.ReadFile(file("valid"))
	require.NoError(t, err)
	write := func(name string, content []byte) { require.NoError(t, os.WriteFile(file(name), content, 0o600)) }
	write("text", []byte(strings.Repeat("this is a letter\n", 1000)))
	write("short", content[:len(content)/8])
	other, err := bbolt.Open(file("other"), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, other.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }))
	require.NoError(t, other.Close())
	for name, want := range map[string]string{
		"text":          "is damaged or not a file of counts",
		"short":         "is damaged or not a file of counts",
		"other":         "another program wrote it",
		".":             "is a directory",
		"nowhere/count": "no such file or directory",
	} {
		before, _ := os.ReadFile(file(name))
		refuses(t, file(name), want)
		after, _ := os.ReadFile(file(name))
		assert.Equal(t, before, after, name)
	}

	busy := open(t, file("busy"))
	defer busy.Close()
	refuses(t, file("busy"), "is in use by another process")
	write("empty", nil) // as mktemp creates it
	require.NoError(t, open(t, file("empty")).Close())
}

func refuses(t *testing.T, path, want string) {
	t.Helper()
	_, err := Open(path, (&visitor.Log{}).Logger())
	require.Error(t, err, path)
	assert.Contains(t, err.Error(), want)
	assert.NotContains(t, err.Error(), "\n")
}

// Whatever part of the file is damaged, Open refuses it or returns the right counts; it
// never crashes.
func TestOpen_SurvivesAnyDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counts")
	s := open(t, path)
	for i := range int64(300) {
		s.Keep(string(rune('a'+i%26))+strings.Repeat("life", 6), i+1)
	}
	require.NoError(t, s.Close())
	s = open(t, path)
	want := s.Counts()
	require.NoError(t, s.Close())
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	refused := 0
	for at := 0; at < len(content); at += 64 {
		for _, damage := range []byte{0x00, 0xff, 0x07} {
			broken := append([]byte{}, content...)
			for i := range min(64, len(content)-at) {
				broken[at+i] = damage
			}
			path := fmt.Sprint(path, at, damage) // a refused file stays locked
			require.NoError(t, os.WriteFile(path, broken, 0o600))
			s, err := Open(path, (&visitor.Log{}).Logger())
			if err != nil {
				refused++
				continue
			}
			assert.Equal(t, want, s.Counts(), "damaged at %d by %x", at, damage)
			s.Close()
		}
	}
	t.Log(refused, "refused")
}

// A failing write is logged once, and made up for by the next one.
func TestKeep_LogsAFailureOnce(t *testing.T) {
	path, log := filepath.Join(t.TempDir(), "counts"), &visitor.Log{}
	s, err := Open(path, log.Logger())
	require.NoError(t, err)
	working := s.db
	s.db, err = bbolt.Open(path+"2", 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, s.db.Close())
	s.Keep("life", 1)
	s.Keep("life", 2)
	s.db = working
	s.Keep("life", 2)
	require.NoError(t, s.Close())
	assert.Equal(t, 1, strings.Count(log.String(), "cannot be saved"))
	assert.Equal(t, 1, strings.Count(log.String(), "saved again"))
	s = open(t, path)
	defer s.Close()
	assert.Equal(t, map[string]int64{"life": 2}, s.Counts())
}
