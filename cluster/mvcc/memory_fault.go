package mvcc

// Compact forgets history before a revision, see State.Compact.
func (m *Memory) Compact(revision int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Compact(revision)
}

// Revision is the current one.
func (m *Memory) Revision() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Revision()
}

// Snapshot is a copy of the store as it is now.
func (m *Memory) Snapshot() *State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Clone()
}

// Restore puts the store back to a snapshot, as an operator does who restores
// a backup without raising the revision. Leases get their full TTL. Running
// watches go on from the first revision that they have not had: while that is
// in the future they are silent, and what was undone they are never told.
func (m *Memory) Restore(snapshot *State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = snapshot.Clone()
	m.lessor.Reset(m.state.Leases(), m.now())
	m.arm()
	for w := range m.watches {
		w.next = w.resume
		w.poke()
	}
}

// SetClusterID changes what headers say from now on.
func (m *Memory) SetClusterID(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clusterID = id
}

// SetDown takes the quorum away, or gives it back. While down, a call waits
// until the store is up or its context ends (then it returns ErrUnavailable
// and the context's error, and had no effect), watches end with ErrNoLeader,
// and no lease ends; afterwards each has its full TTL.
func (m *Memory) SetDown(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case down && m.up == nil:
		m.expire()
		m.up = make(chan struct{})
		m.failWatches(ErrNoLeader)
	case !down && m.up != nil:
		close(m.up)
		m.up = nil
		m.lessor.Reset(m.state.Leases(), m.now())
		m.arm()
	}
}

// DropWatches ends all running watches with ErrUnavailable, as a lost
// connection may.
func (m *Memory) DropWatches() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failWatches(ErrUnavailable)
}

func (m *Memory) failWatches(err error) {
	for w := range m.watches {
		w.fail = err
		w.poke()
	}
}
