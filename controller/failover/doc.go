// Package failover decides which endpoints get another node without anybody's word,
// and which nodes nothing is taken from any more until then.
//
// It is pure: a candidate for the lead shows a Judge what it sees (a View), and is told
// what to write (a Decision); it does so when it is the leader. There is no goroutine, no
// I/O and no clock. What is asked for is asked for again until the View shows it, so that
// a write may fail or be lost.
//
// It is for endpoints of the modes stateless and vip, of which there may be two for a
// while: receivers take the address from one of them, and a node that is cut off goes on
// to serve its own side. Of an endpoint that is exclusive strict the owner's kernel shuts
// the port unless the store has let it go on (see package watcher): that is waited for
// here. One of mode stateful is strict, and goes to another node only when its workload
// surely has ended at the one before (see below). A node that cannot be reached is no
// proof of that, nor is a port that is shut; a time limit at the owner itself, by which
// its workload is killed, would be one more.
//
// # What is known of a node
//
// There are two signals, which fail independently. The keepalive is a counter in the
// node's live record, which a node that owns such endpoints raises every Keepalive; it
// is late when it has not moved for that and a quarter more, which is for the way to
// the store and from there. Of a node that owns nothing it
// stands still, and says nothing. Leases are never evidence: they are armed anew when
// the store has another leader, and may be revoked by mistake. The verdicts are what
// its observers (cluster.ObserversOf) see of it on the underlay.
//
// Times are this candidate's own, from when it saw something to when it saw it change,
// whether it led then or not. What another clock says is never compared.
//
//   - Grace. A candidate that has just begun, and one that looked later than it said by
//     more than a keepalive, collects evidence for one detection and one keepalive: what
//     it finds may be old. Elected meanwhile, the one thing it does is to give an endpoint
//     that nobody has, nor serves, its first node. One that has watched while another led
//     knows what moved when, and acts as soon as it is elected.
//   - Behind. How far the view was behind the store is known only when the leader has read
//     its own write in it. So what a verdict's counter was seen to move by then, since the
//     look before, does not count: it has to move once more, or to have moved shortly
//     before. That a keepalive moved does count, for it can only keep its node from being
//     down.
//   - Fresh. A verdict that suspects somebody counts if its counter moved within 3
//     probe periods, as this candidate saw it. A verdict that suspects nobody is written
//     once: its observer hears everybody as long as it is well itself. If others in
//     two places do not hear its agent, it is absent.
//   - Unsure. An observer that says so is absent (package watcher/observe says when it is).
//   - Places. Observers in one datacenter prove nothing: it may be the way there that
//     is broken. They have to be in two, of which one may be the node's own; a witness
//     counts as a place, in the node's own datacenter, too.
//   - Share. Two thirds of the sure observers have to agree. One that lies, or is
//     wrong, moves nothing. But nothing is given to a node that any sure one suspects.
//
// # Classes
//
//   - Down: neither its agent nor its kernel answers two thirds of its sure observers,
//     in two places, and its keepalive is late.
//   - Isolated: they do not answer any of them, but the keepalive is fresh. Its data
//     path is cut, and it still reads and writes the store. It is not fenced: it is to
//     hand over by itself. When it reports an endpoint as released, that goes to
//     another node at once. A node that does not report this keeps what it has, until
//     its keepalive is late, too. So nothing is ever served by two because of this
//     class; what it can cost is that nobody serves.
//   - AgentDown: the kernel answers, the agent does not. Its endpoints are served on,
//     and stay; it gets no others.
//   - LinkSplit: all sure observers of some datacenter do not hear it, and it is not
//     Down. A matter between datacenters: no node is given up for it. A node that some
//     of its own datacenter hear, and no more do not, is never Down. Where there are two datacenters and no
//     witness, the loss of one looks like this, and nothing is moved. Where a datacenter
//     has half of the voting servers or more, its loss leaves no leader at all; commands
//     say so (cluster.Quorum). Neither keeps the loss of a node from being dealt with.
//
// # What may be given up
//
//   - Confirm. A node has to be silent for Confirm, or a probe period if that is more,
//     in which those that were lost with it show, too.
//
//   - Mass. Lost nodes count from when they are silent until a minute after they were
//     fenced, or after they were lost if there is nothing to move. Draining nodes do
//     not count. One node of a datacenter, or less than 30 %, is given up at once. Of
//     more, one every 10 s (ModePartial). A whole datacenter of two nodes or more goes
//     at once (ModeDatacenter), if observers in two other places say so of each of its
//     nodes and 70 % of the nodes elsewhere are well; it has to be silent for Hold.
//     A datacenter of one node is a node.
//
//   - Safe mode. More than half of all nodes, and several, that are no whole
//     datacenter; several whole ones; a whole one that is not attested as above; losses
//     in two datacenters within Hold and one detection. Then nothing is fenced and
//     nothing moves until that has not been so for a detection and a keepalive.
//     Nothing becomes old meanwhile. Only nodes that come back, or are drained or
//     removed by an operator, end it. It is this candidate's: one that has begun since
//     sees again that half is lost, but of two losses that it did not see begin it cannot
//     tell whether they came at once, unless both ask for something.
//
//   - Given up. An operator's word that a node is lost (cluster.GivenUp) stands for
//     confirm, hold and mass, for what that node has and for nothing else: what is lost
//     beside it counts as before, and waits as before. It makes no node that sure
//     observers hear a lost one, moves nothing that is held, and is over when the node is back.
//     Who has none yet collects it first.
//
// A node is fenced only if one of its endpoints can be elsewhere: a fence cuts off all
// that the node has. It is not, if nobody knows from which address its frames come.
//
// # When an endpoint gets another node
//
//   - It has none, or its node is no member of the VPC any more; or the owner
//     reports it as released in this very epoch: at once.
//
//   - Its owner is fenced, and was booted anew since: at once.
//
//   - Barrier. Its owner is fenced: when all members of the VPC that are there have
//     confirmed the fence, or after Barrier. Then those that have not are named
//     (Moved.Unfenced): they may take frames of both until they read it.
//
//   - Its owner says that its workload failed in this very epoch, and has ended: at
//     once. It goes to none of the nodes where it failed one after the other, and after
//     three of them to no node, until an operator moves it. When it ran for a minute,
//     that is forgotten.
//
//   - Port. Its owner is well, and says for one detection and one keepalive that it
//     cannot serve it: its port cannot be made, or what was behind it is gone. It goes to
//     a node that can, two a second, and to none where that was so before it came. When
//     it was so at three nodes one after the other it stays. When it was served for a
//     minute, that is forgotten; it returns by itself to such a node after 10 minutes.
//     Not so in mode stateful: a port that fails is no word that a workload has ended. A
//     strict one is handed over, and its owner says when it serves it no more; of where it
//     failed nothing is kept then, and only the changes in 180 s bound it.
//
// Of a strict endpoint the barrier is not enough, and a node that left the VPC may serve
// it still. Its owner has to have said that it released it, or been booted anew after
// the fence was seen, or:
//
//   - Time. The owner's counter has not moved for cluster.GrantWait, as this candidate saw
//     it, with a grant of the length that the node said; and the live record has not
//     changed when the new owner is written. A renewal wants the own records as they
//     are: so none can follow. The owner must have said that its port is gated.
//
// By time alone, without fence or barrier, goes what a node has that is not down, and has
// had for as long: its agent is frozen or gone, or does not reach the store, and all else
// that it has is served. What is served and should be elsewhere is handed over first: own.To has the
// owner shut it, end its workload, and say so. A target has to have read what became of
// it last.
//
// Of one of mode stateful, time is no proof: frames have ended by it, and the workload
// has not. It gets another node only by its owner's word, that it has ended this epoch or
// that its workload failed and has; or when its owner is fenced, and was booted anew
// after that was seen: it then starts nothing in this epoch, as its fence is lifted only
// when it has released that. A node is not fenced for it.
//
// And never if an operator holds it, in safe mode, or if it changed five times in
// 180 s: then it stays until it was quiet for as long, or an operator moves or holds
// it. Of the nodes that have it attached, are in its places and are well (alive, OK,
// suspected by nobody, neither fenced nor draining, without failures that count) and say
// that its workload, if it has one, does not run there, one where that has not failed
// gets it, then the one that an operator moved it to by hand, then one whose datacenter
// has fewest of its group, then the one that its list
// prefers, then one without a penalty, then one whose report
// is of this epoch, then the one with the fewest endpoints, then the first by name. At
// most 500 in a second.
//
// A node that has as many endpoints as its capacity gets no more, and none beside which
// it has another of the same group: the endpoint waits then, and says so. Whoever wants
// two of them together rather than one of them nowhere moves it by hand. What is where it
// should not be, by an operator's word or because the word came later, stays.
//
// A failure is worth a penalty of 1000, of which half is left after 5 minutes. From
// 2000 on a node gets nothing until less than 750 is left. And it has to be well for a
// minute, twice that after each further failure, at most half an hour.
//
// # What goes back
//
// A fence is lifted when its node is alive and nobody has suspected it for a detection
// and a keepalive, and it reports no endpoint that is another's by now: each is standby
// or released, or the report is of the epoch in force; and that the workloads of these
// have ended there. Also in safe mode.
//
// An endpoint with failback auto, or with a window while that is open, returns when a node that its list prefers was well for
// 10 minutes and nothing is lost, one a second into a datacenter. A node that is
// drained hands over two a second. Here the owner is well: it closes when it reads
// what the new one opens by.
package failover
