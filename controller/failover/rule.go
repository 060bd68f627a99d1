package failover

import "time"

// rule is one thing that keeps the leader from doing harm. A Judge holds to all of
// them; the model test takes each away in turn, and sees what then goes wrong.
type rule uint32

// The rules, in the order in which doc.go explains them.
const (
	ruleGrace     rule = 1 << iota // who has just begun collects evidence first
	ruleFresh                      // a verdict counts while its counter moves
	ruleBehind                     // and not by a move of which nobody knows how old it is
	ruleUnsure                     // an observer that is unsure is absent
	rulePlaces                     // observers in one place prove nothing
	ruleShare                      // two thirds of the sure observers agree
	ruleKeepalive                  // a node that reaches the store is not down
	ruleConfirm                    // the evidence holds for a time
	ruleMass                       // what is lost at once bounds what is done
	ruleHoldDown                   // a whole datacenter is waited for
	ruleBarrier                    // receivers drop the old owner before the new one is named
	ruleTarget                     // nothing goes to a node that is fenced, or not well
	ruleHeld                       // an operator's hold
	ruleChanges                    // an endpoint that moves too often stays
	ruleLift                       // a fence goes when its node serves nothing of what was moved
	ruleTime                       // a strict endpoint's owner has shut by itself before another is named
	ruleProof                      // what may not run twice is moved when it surely has ended
	ruleCapacity                   // a node is given as many endpoints as it may have
	ruleApart                      // and no two that are apart
	ruleWord                       // an operator's word that a node is lost is over when it is back
	rulePort                       // what its owner cannot serve goes to one that can
)

// Numbers of the rules that no profile changes.
const (
	freshPeriods = 3 // probe periods that a verdict's counter may stand still
	minPlaces    = 2 // datacenters that observers have to be in
	slackShare   = 4 // of a keepalive's period by which it may be later than that: a quarter

	massWindow   = time.Minute      // how long a loss counts
	partialShare = 30               // percent of a datacenter from which on it is partly lost
	healthyShare = 70               // percent of all others that have to be well for a datacenter to be given up
	partialPause = 10 * time.Second // between two fences in a datacenter that is partly lost

	maxChanges   = 5 // changes of an endpoint's owner without anybody's word
	changeWindow = 180 * time.Second
	longAgo      = time.Hour // by whichever clock, what another leader did is of no account

	grantsAtOnce = 500 // in grantWindow
	grantWindow  = time.Second

	penalty      = 1000.0 // of a failure
	penaltyMost  = 2000.0 // from which on a node is no target
	penaltyLeast = 750.0  // below which it is one again
	halfLife     = 5 * time.Minute

	stableLeast = time.Minute // after a node's first failure, twice that after each more
	stableMost  = 30 * time.Minute

	failbackStable = 10 * time.Minute
	failbackPause  = time.Second // between two in a datacenter
	drainPause     = time.Second / 2
)
