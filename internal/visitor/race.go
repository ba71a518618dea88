//go:build race

package visitor

// raceDetector reports whether this test was built with the race detector.
const raceDetector = true
