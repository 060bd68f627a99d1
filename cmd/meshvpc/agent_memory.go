package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The agent's share of a host's memory: the collector works harder from
// agentMemory bytes on, and before that lets the heap grow by agentGC percent.
// What is in use for good may come near agentMemory, on a host with hundreds of
// VPCs; the collector would run nearly without end and gain nothing. So half of
// what is in use, and agentSpare bytes at least, are left to the heap.
const (
	agentMemory = 24 << 20
	agentGC     = 200
	agentSpare  = 4 << 20
)

// spareEvery is how often keepSpare looks.
const spareEvery = 10 * time.Second

// keepSpare sets the collector's limits until ctx ends.
func keepSpare(ctx context.Context) {
	debug.SetGCPercent(agentGC)
	debug.SetMemoryLimit(agentMemory)
	limit := int64(agentMemory)
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/goal:bytes"}}
	tick := time.NewTicker(spareEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(heap)
		if l := memoryLimit(limit, int64(heap[0].Value.Uint64()), int64(heap[1].Value.Uint64())); l != limit {
			limit = l
			debug.SetMemoryLimit(l)
		}
	}
}

// memoryLimit is the limit that leaves what is to be spare, if limit has left the heap
// to grow from live to goal. Small differences are not worth to stop the program for.
func memoryLimit(limit, live, goal int64) int64 {
	next := max(agentMemory, limit+max(agentSpare, live/2)-(goal-live))
	if d := next - limit; next != agentMemory && -agentSpare/4 < d && d < agentSpare/4 {
		return limit
	}
	return next
}
