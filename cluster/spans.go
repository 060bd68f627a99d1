package cluster

// Who reads and writes which keys, for Allowed and for the static roles of an
// external etcd.

// toNode is what a node reads of its own, also when it was removed.
func toNode(me string) []span {
	return []span{one(KeyConfig), one(KeyNode(me)), below(PrefixHost(me))}
}

// byNode is what a node writes.
func byNode(me string) []span {
	return []span{one(KeyLive(me)), below(PrefixStatus(me)), below(PrefixRequests(me))}
}

// toNodes is what every node reads, beside its VPCs.
func toNodes() []span {
	return []span{below(PrefixNodes), below(PrefixFences), below(PrefixSrvs)}
}

// toPeople is what operators and viewers read: all but tokens.
func toPeople() []span {
	return []span{{Root, PrefixToks}, {below(PrefixToks).to, below(Root).to}}
}

// byAdmins is what admins write: all but the history.
func byAdmins() []span {
	return []span{{Root, PrefixEvents}, {below(PrefixEvents).to, below(Root).to}}
}
