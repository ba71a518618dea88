package main

import (
	"fmt"
	"testing"
)

// One click, from the tab that makes it until the last of N tabs shows it: real
// sockets on loopback, every tab in this process. us/tab is what each tab adds.
func BenchmarkCounter_ClickToLastTab(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("tabs=%d", n), func(b *testing.B) {
			server := newServer(b)
			tabs := make([]*tab, n)
			for i := range tabs {
				tabs[i] = newVisitor(b, server).open(counterPage)
			}
			clicks := 0
			for b.Loop() {
				clicks++
				if clicks%100 == 0 { // stay under the rate limit of one connection
					b.StopTimer()
					tabs[0].close()
					tabs[0] = newVisitor(b, server).open(counterPage)
					b.StartTimer()
				}
				tabs[0].increment()
				for _, tb := range tabs {
					tb.shows(fmt.Sprintf("Counter: %d", clicks))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/tab")
		})
	}
}
