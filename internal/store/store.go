// Package store saves counts in a file. A count belongs to one life of a process and only
// grows; a process that restarts adds another count. So a copy of the file, or an old one from
// a backup, can be used, and nothing counts twice.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockWithin is how long Open waits for another process to close the file.
const lockWithin = time.Second

var bucket = []byte("realtime counts")

// Store is an open file, locked against other processes. Its methods are safe for concurrent
// use.
type Store struct {
	log  *slog.Logger
	db   *bbolt.DB
	kept map[string]int64 // the counts in the file when it was opened

	latest latest
	mu     sync.Mutex // held during a write; guards the rest
	last   int64      // the count in the file
	failed bool       // the last write
}

// latest is the largest count that was passed to Keep.
type latest struct {
	mu    sync.Mutex
	count int64
}

// Open opens a file, or creates it. An error says in one sentence why it cannot be used:
// another process has it open, it is damaged, or it is a file of another kind.
func Open(path string, log *slog.Logger) (s *Store, err error) {
	unusable := func(why any) error { return fmt.Errorf("%s is damaged or not a file of counts (%v)", path, why) }
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // the file is mapped into memory, and may be too short
	defer func() {
		if broken := recover(); broken != nil {
			s, err = nil, unusable(broken)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWithin})
	var file *fs.PathError
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%s is in use by another process", path)
	case errors.As(err, &file):
		return nil, err
	case err != nil:
		return nil, unusable(err)
	}
	s = &Store{log: log, db: db, kept: map[string]int64{}}
	if err := db.Update(s.read); err != nil { // writing also makes both meta pages of the file point to these counts
		db.Close()
		return nil, unusable(err)
	}
	return s, nil
}

// read reads all counts. A new file gets a bucket for them.
func (s *Store) read(tx *bbolt.Tx) error {
	counts := tx.Bucket(bucket)
	if counts == nil {
		if first, _ := tx.Cursor().First(); first != nil {
			return errors.New("another program wrote it")
		}
		_, err := tx.CreateBucket(bucket)
		return err
	}
	return counts.ForEach(func(life, value []byte) error {
		if len(value) != 12 || binary.BigEndian.Uint32(value[8:]) != checksum(life, value[:8]) {
			return errors.New("the checksum of a count is wrong")
		}
		s.kept[string(life)] = int64(binary.BigEndian.Uint64(value))
		return nil
	})
}

func checksum(life, number []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(life), crc32.IEEETable, number)
}

// Counts returns the counts that Open found, by life.
func (s *Store) Counts() map[string]int64 { return s.kept }

// Keep returns once the count of this life is on disk. Counts that arrive during a write share
// the next one. A failed write is logged once, and retried with the next count.
func (s *Store) Keep(life string, count int64) {
	s.latest.raise(count)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last >= count {
		return
	}
	count = s.latest.raise(count)
	value := binary.BigEndian.AppendUint64(nil, uint64(count))
	value = binary.BigEndian.AppendUint32(value, checksum([]byte(life), value))
	err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put([]byte(life), value) })
	switch {
	case err != nil && !s.failed:
		s.log.Error("the count cannot be saved: it is lost if this process ends", slog.Any("error", err))
	case err == nil && s.failed:
		s.log.Info("the count is saved again")
	}
	if s.failed = err != nil; !s.failed {
		s.last = count
	}
}

func (l *latest) raise(count int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count = max(l.count, count)
	return l.count
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }
