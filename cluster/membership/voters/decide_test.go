package voters

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// parse reads servers as the tables have them: "a1 V; b1 L behind; c1 V down 6m".
// The name's letters are the datacenter; V votes, L learns, N is no member. Who
// is not said to be down has been healthy for an hour; down alone is for an hour,
// too.
func parse(t testing.TB, text string) []Server {
	t.Helper()
	var list []Server
	for entry := range strings.SplitSeq(text, ";") {
		words := strings.Fields(entry)
		if len(words) == 0 {
			continue
		}
		s := Server{Name: words[0], Datacenter: strings.TrimRight(words[0], "0123456789"), Healthy: true, For: time.Hour, CaughtUp: true, Addressed: true}
		for _, w := range words[1:] {
			switch w {
			case "V":
				s.Role = Voter
			case "L":
				s.Role = Learner
			case "N":
				s.Role, s.Healthy = Absent, false
			case "up":
			case "down":
				s.Healthy = false
			case "behind":
				s.CaughtUp = false
			case "nowhere":
				s.Addressed = false
			case "removed":
				s.Removed = true
			case "witness":
				s.Witness = true
			default:
				var err error
				if s.For, err = time.ParseDuration(w); err != nil {
					t.Fatalf("%q: %v", entry, err)
				}
			}
		}
		list = append(list, s)
	}
	return list
}

// TestDecide is the specification: situations, and the one step that follows.
func TestDecide(t *testing.T) {
	for name, tt := range map[string]struct {
		servers string
		max     int
		want    string // the step
		why     string // a part of its sentence
	}{
		"one server votes":                      {servers: "a1 V", want: "none"},
		"a second server stands by":             {servers: "a1 V; b1 L", want: "none"},
		"a third lets two more vote":            {servers: "a1 V; b1 L; c1 L", want: "promote b1", why: "it is caught up, and 3 servers are to vote"},
		"and the even moment is short":          {servers: "a1 V; b1 V; c1 L", want: "promote c1"},
		"three vote":                            {servers: "a1 V; b1 V; c1 V", want: "none"},
		"a fourth stands by":                    {servers: "a1 V; b1 V; c1 V; d1 L", want: "none"},
		"a fifth lets two more vote":            {servers: "a1 V; b1 V; c1 V; d1 L; e1 L", want: "promote d1"},
		"the most is five":                      {servers: "a1 V; b1 V; c1 V; d1 V; e1 V; f1 L; g1 L", want: "none"},
		"unless the policy says seven":          {servers: "a1 V; b1 V; c1 V; d1 V; e1 V; f1 L; g1 L", max: 7, want: "promote f1"},
		"or three":                              {servers: "a1 V; b1 V; c1 V; d1 L; e1 L", max: 3, want: "none"},
		"an even most is the odd one below":     {servers: "a1 V; b1 V; c1 V; d1 L; e1 L", max: 4, want: "none"},
		"a lowered most drops voters":           {servers: "a1 V; b1 V; c1 V; d1 V; e1 V", max: 3, want: "remove e1", why: "3 voters are enough"},
		"from four voters one goes":             {servers: "a1 V; b1 V; c1 V; d1 V", want: "remove d1", why: "3 voters are enough"},
		"from two voters one goes":              {servers: "a1 V; b1 V", want: "remove b1", why: "one voter is better than two"},
		"two wait for a learner on its way":     {servers: "a1 V; b1 V; c1 L behind 1m", want: "none", why: "2 voters until a learner on its way is ready"},
		"not for ever":                          {servers: "a1 V; b1 V; c1 L behind 6m", want: "remove b1"},
		"four wait for a learner that vanished": {servers: "a1 V; b1 V; c1 V; d1 V; e1 L down 1m", want: "none", why: "4 voters until"},
		"no servers":                            {servers: "", want: "none"},
		"records alone":                         {servers: "a1 N; b1 N", want: "none", why: "0 of 0 voters answer"},

		"a learner has to catch up":            {servers: "a1 V; b1 L; c1 L behind", want: "none"},
		"and to be healthy":                    {servers: "a1 V; b1 L; c1 L down", want: "none"},
		"and that for a while":                 {servers: "a1 V; b1 L; c1 L up 9s", want: "none"},
		"which ends":                           {servers: "a1 V; b1 L; c1 L up 10s", want: "promote b1"},
		"and to be reached":                    {servers: "a1 V; b1 L; c1 L nowhere", want: "none"},
		"and to be no server that was removed": {servers: "a1 V; b1 L; c1 N removed", want: "none"},

		"quorum lost":                             {servers: "a1 V; b1 V down 6m; c1 V down 6m; d1 L", want: "none", why: "1 of 3 voters answer and 2 must"},
		"two voters, one dead":                    {servers: "a1 V; b1 V down 6m; c1 L", want: "none", why: "1 of 2 voters answer and 2 must"},
		"a silent voter has a grace":              {servers: "a1 V; b1 V; c1 V down 299s; d1 L", want: "none", why: "c1 is given 5m0s to answer again"},
		"then goes, as another is ready":          {servers: "a1 V; b1 V; c1 V down 5m; d1 L", want: "remove c1", why: "silent for longer than 5m0s, and d1 is ready"},
		"and the other comes":                     {servers: "a1 V; b1 V; c1 N; d1 L", want: "promote d1"},
		"no other ready: the dead stays":          {servers: "a1 V; b1 V; c1 V down 6m", want: "none"},
		"a learner on its way is not ready":       {servers: "a1 V; b1 V; c1 V down 6m; d1 L behind 1m", want: "none"},
		"five, one dead: stays":                   {servers: "a1 V; b1 V; c1 V; d1 V; e1 V down 6m", want: "none"},
		"five, two dead: three are enough":        {servers: "a1 V; b1 V; c1 V; d1 V down 6m; e1 V down 6m", want: "remove d1", why: "not needed: 3 voters are enough"},
		"one after the other":                     {servers: "a1 V; b1 V; c1 V; d1 N; e1 V down 6m", want: "remove e1", why: "not needed: 3 voters are enough"},
		"five, two dead, two ready":               {servers: "a1 V; b1 V; c1 V; d1 V down 6m; e1 V down 6m; f1 L; g1 L", want: "remove d1", why: "f1 is ready"},
		"five, two dead, one ready":               {servers: "a1 V; b1 V; c1 V; d1 V down 6m; e1 V down 6m; f1 L", want: "remove d1"},
		"four, one dead: three":                   {servers: "a1 V; b1 V; c1 V; d1 V down 6m", want: "remove d1"},
		"one dead, one silent: wait":              {servers: "a1 V; b1 V; c1 V; d1 V down 6m; e1 V down 1m; f1 L", want: "none", why: "e1 is given"},
		"a newcomer falls silent: nothing else":   {servers: "a1 V; b1 V; c1 V; d1 V down 1s; e1 L", want: "none", why: "d1 is given"},
		"a member that never started: then three": {servers: "a1 V; b1 V; c1 V; d1 V down 5m; e1 L", want: "remove d1"},

		"the candidate of the other datacenter first":  {servers: "a1 V; a2 L; a3 L; b1 L", want: "promote b1"},
		"a datacenter each":                            {servers: "a1 V; a2 L; b1 L; b2 L; c1 L", want: "promote b1"},
		"even if five could vote":                      {servers: "a1 V; b1 V; c1 V; a2 L; a3 L", want: "none"},
		"but if five are spread":                       {servers: "a1 V; b1 V; c1 V; a2 L; b2 L", want: "promote a2"},
		"a server before a witness":                    {servers: "a1 V; b1 L witness; b2 L; c1 L", want: "promote b2"},
		"a witness where there is no other":            {servers: "a1 V; b1 L; c1 L witness", want: "promote b1"},
		"a majority in one datacenter: exchange":       {servers: "a1 V; a2 V; b1 V; c1 L", want: "promote c1", why: "with it in c instead of a2 in a any one datacenter may be lost"},
		"which ends so":                                {servers: "a1 V; a2 V; b1 V; c1 V", want: "remove a2"},
		"all in one datacenter: two exchanges":         {servers: "a1 V; a2 V; a3 V; b1 L; c1 L", want: "promote b1"},
		"the first ends before the second":             {servers: "a1 V; a2 V; a3 V; b1 V; c1 L", want: "remove a3"},
		"then the second":                              {servers: "a1 V; a2 V; b1 V; a3 L; c1 L", want: "promote c1"},
		"five with a majority: three are better":       {servers: "a1 V; a2 V; a3 V; b1 V; c1 V", want: "remove a3", why: "with 3 voters, and none too many in one datacenter"},
		"no exchange that survives no more":            {servers: "a1 V; a2 V; a3 V; b1 L", want: "none"},
		"nor for beauty":                               {servers: "a1 V; a2 V; b1 V; b2 V; c1 V; d1 L", want: "none"},
		"nor while a voter is silent":                  {servers: "a1 V; a2 V; b1 V down 1m; c1 L", want: "none"},
		"a replacement where it is needed":             {servers: "a1 V; b1 V; c1 V down 6m; a2 L; d1 L", want: "remove c1", why: "d1 is ready"},
		"a replacement where there is one":             {servers: "a1 V; b1 V; c1 V down 6m; a2 L", want: "remove c1", why: "a2 is ready"},
		"five, one dead, one majority: three":          {servers: "a1 V down 6m; a2 V; b1 V; b2 V; c1 V", want: "remove a1", why: "not needed: 3 voters are enough"},
		"then the second of that datacenter":           {servers: "a2 V; b1 V; b2 V; c1 V", want: "remove b2"},
		"five, one dead, no spread to be had: stays":   {servers: "a1 V; a2 V; b1 V; b2 V; c1 V down 6m", want: "none"},
		"unknown datacenters are one":                  {servers: "1 V; 2 V; a1 V; b1 L", want: "promote b1"},
		"a learner on its way lets a voter of it stay": {servers: "a1 V; a2 V; b1 V; c1 V; b2 L behind 1m", want: "none", why: "4 voters until"},

		"an operator's removal goes first":        {servers: "a1 V; b1 V; c1 V removed; d1 L", want: "remove c1", why: "an operator removed it"},
		"before growth":                           {servers: "a1 V; b1 L; c1 L; d1 L removed", want: "remove d1"},
		"before the dead":                         {servers: "a1 V; b1 V; c1 V; d1 V down 6m; e1 V removed", want: "remove e1"},
		"who is silent first":                     {servers: "a1 V; b1 V removed; c1 V removed down 1s", want: "remove c1"},
		"without any grace":                       {servers: "a1 V; b1 V; c1 V down 1s removed", want: "remove c1"},
		"never the only voter":                    {servers: "a1 V removed", want: "none", why: "a1 stays as it is: it is the only voter"},
		"till another votes":                      {servers: "a1 V removed; b1 L; c1 L", want: "promote b1"},
		"then it goes":                            {servers: "a1 V removed; b1 V; c1 L", want: "remove a1"},
		"never below quorum":                      {servers: "a1 V removed; b1 V; c1 V down 1m", want: "none"},
		"so the dead first":                       {servers: "a1 V removed; b1 V; c1 V down 6m", want: "remove c1"},
		"and the dead one that stays stays":       {servers: "a1 V removed; b1 V; c1 V; d1 V down 6m; e1 V down 6m", want: "remove e1"},
		"not while another's fate is open":        {servers: "a1 V removed; b1 V; c1 V; d1 V; e1 V down 1m", want: "none"},
		"nothing at all when quorum is lost":      {servers: "a1 V; b1 V down removed; c1 V down removed", want: "none", why: "nothing is changed"},
		"who is silent first, again":              {servers: "a1 V removed; b1 V; c1 V; d1 V; e1 V removed down 1s", want: "remove e1"},
		"nobody but removed ones: the dead first": {servers: "a1 V removed; b1 V removed; c1 V down 6m", want: "remove c1"},
		"all removed: one stays":                  {servers: "a1 V removed; b1 V removed; c1 V removed", want: "remove a1"},
		"and a server that joins is no candidate": {servers: "a1 V; b1 V; c1 L removed", want: "remove c1"},
	} {
		t.Run(name, func(t *testing.T) {
			v := View{Servers: parse(t, tt.servers), Policy: Policy{MaxVoters: tt.max}}
			d := Decide(v)
			if got := strings.TrimSpace(string(d.Step.Kind) + " " + d.Step.Server); got != tt.want || !strings.Contains(d.Step.Why, tt.why) {
				t.Errorf("Decide: %s: %q; want %s: …%s…", got, d.Step.Why, tt.want, tt.why)
			}
			if d.Step.Kind != None && d.Step.Why == "" {
				t.Error("a step without a reason")
			}
			for range 3 {
				rand.Shuffle(len(v.Servers), func(i, j int) { v.Servers[i], v.Servers[j] = v.Servers[j], v.Servers[i] })
				if diff := cmp.Diff(d, Decide(v)); diff != "" {
					t.Errorf("another order of servers (-first +second):\n%s", diff)
				}
			}
		})
	}
}

// TestWhy: each server has its sentence, and those of servers at rest do not
// change from one second to the next.
func TestWhy(t *testing.T) {
	for name, tt := range map[string]struct {
		servers string
		want    []string
	}{
		"at rest": {"a1 V; b1 V; c1 V witness; d1 L; e1 N; f1 N removed", []string{
			"a1 votes: one of 3, of 1 in a", "b1 votes: one of 3, of 1 in b", "c1 votes: one of 3, of 1 in c",
			"d1 stands by: an odd number votes, and for 5 voters another server is missing",
			"e1 no member of the store: it has to join", "f1 removed by an operator"}},
		"two servers": {"a1 V; b1 L", []string{"a1 votes: one of 1, of 1 in a", "b1 stands by: an odd number votes, and for 3 voters another server is missing"}},
		"learners": {"1 V; b1 L behind; c1 L down; d1 L up 1s; e1 L nowhere; f1 L", []string{
			"1 votes: one of 1, of 1 in an unknown datacenter", "b1 learns; has not caught up yet", "c1 learns; does not answer",
			"d1 learns; may vote when it has been well for 10s", "e1 learns; its record does not say where clients reach it",
			"f1 stands by: an odd number votes, and for 3 voters another server is missing"}},
		"growing": {"a1 V; b1 L; c1 L", []string{"a1 votes: one of 1, of 1 in a", "b1 is to vote: it is caught up, and 3 servers are to vote", "c1 is to vote: it is caught up, and 3 servers are to vote"}},
		"the most": {"a1 V; b1 V; c1 V; d1 V; e1 V; f1 L", []string{"a1 votes: one of 5, of 1 in a", "b1 votes: one of 5, of 1 in b", "c1 votes: one of 5, of 1 in c",
			"d1 votes: one of 5, of 1 in d", "e1 votes: one of 5, of 1 in e", "f1 stands by: 5 voters are the most"}},
		"spread": {"a1 V; b1 V; c1 V; a2 L; a3 L", []string{"a1 votes: one of 3, of 1 in a", "a2 stands by: with 5 voters the loss of one datacenter could be too much",
			"a3 stands by: with 5 voters the loss of one datacenter could be too much", "b1 votes: one of 3, of 1 in b", "c1 votes: one of 3, of 1 in c"}},
		"silent": {"a1 V; b1 V; c1 V down 1m", []string{"a1 votes: one of 3, of 1 in a", "b1 votes: one of 3, of 1 in b",
			"c1 votes; does not answer, and counts as dead if that lasts 5m0s"}},
		"dead": {"a1 V; b1 V; c1 V down 6m", []string{"a1 votes: one of 3, of 1 in a", "b1 votes: one of 3, of 1 in b",
			"c1 votes; silent for longer than 5m0s, and no server is ready to take its place"}},
		"replaced": {"a1 V; b1 V; c1 V down 6m; d1 L", []string{"a1 votes: one of 3, of 1 in a", "b1 votes: one of 3, of 1 in b",
			"c1 loses its vote: silent for longer than 5m0s, and d1 is ready", "d1 is to vote: it is caught up, and 3 servers are to vote"}},
		"exchange": {"a1 V; a2 V; b1 V; c1 L", []string{"a1 votes: one of 3, of 2 in a",
			"a2 gives its vote up: with 3 voters, and none too many in one datacenter, any one datacenter may be lost",
			"b1 votes: one of 3, of 1 in b", "c1 is to vote: with it in c instead of a2 in a any one datacenter may be lost"}},
		"even": {"a1 V; b1 V; c1 L behind 1m", []string{"a1 votes: one of 2, of 1 in a", "b1 votes, while a learner on its way may make the number odd", "c1 learns; has not caught up yet"}},
		"removed, and needed": {"a1 V removed; b1 V; c1 V down 1m", []string{"a1 removed by an operator; waits: c1 is given 5m0s to answer again",
			"b1 votes: one of 3, of 1 in b", "c1 votes; does not answer, and counts as dead if that lasts 5m0s"}},
		"removed, and one too many": {"a1 V removed; b1 V; c1 V; d1 V down 6m; e1 V down 6m", []string{
			"a1 removed by an operator; waits: 2 of then 4 voters would answer and 3 must", "b1 votes: one of 5, of 1 in b", "c1 votes: one of 5, of 1 in c",
			"d1 votes; silent for longer than 5m0s, and no server is ready to take its place",
			"e1 loses its vote: silent for longer than 5m0s, and not needed: 3 voters are enough"}},
		"quorum lost": {"a1 V; b1 V down removed; c1 V down", []string{"a1 votes: 1 of 3 voters answer and 2 must",
			"b1 removed by an operator; waits: 1 of 3 voters answer and 2 must", "c1 votes; does not answer: 1 of 3 voters answer and 2 must"}},
	} {
		t.Run(name, func(t *testing.T) {
			list := parse(t, tt.servers)
			why := Decide(View{Servers: list}).Why
			var got []string
			for _, s := range newCouncil(View{Servers: list}).servers {
				got = append(got, s.Name+" "+why[s.Name])
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for i := range list {
				if list[i].For >= time.Hour {
					list[i].For += time.Second
				}
			}
			if diff := cmp.Diff(why, Decide(View{Servers: list}).Why); diff != "" {
				t.Errorf("a second later (-first +second):\n%s", diff)
			}
		})
	}
}

// TestWhyStandby: what the policy allows is an odd number.
func TestWhyStandby(t *testing.T) {
	v := View{Servers: parse(t, "a1 V; b1 V; c1 V; d1 L; e1 L"), Policy: Policy{MaxVoters: 4}}
	if got, want := Decide(v).Why["e1"], "stands by: 3 voters are the most"; got != want {
		t.Errorf("Why = %q; want %q", got, want)
	}
}

// TestUnsafe: what is asked of every step, though none that breaks it is wanted.
func TestUnsafe(t *testing.T) {
	for name, tt := range map[string]struct {
		servers string
		kind    Kind
		of      int // the server's place by name
		safe    bool
	}{
		"the second voter":              {"a1 V; b1 L", Promote, 1, true},
		"the third":                     {"a1 V; b1 V; c1 L", Promote, 2, true},
		"the fourth":                    {"a1 V; b1 V; c1 V; d1 L", Promote, 3, true},
		"the fourth with a silent one":  {"a1 V; b1 V; c1 V down; d1 L", Promote, 3, false},
		"the fifth with a silent one":   {"a1 V; b1 V; c1 V; d1 V down; e1 L", Promote, 4, true},
		"the sixth with two":            {"a1 V; b1 V; c1 V; d1 V down; e1 V down; f1 L", Promote, 5, false},
		"a learner goes":                {"a1 V; b1 V down; c1 L", Remove, 2, true},
		"one of two goes":               {"a1 V; b1 V", Remove, 1, true},
		"one of three goes":             {"a1 V; b1 V; c1 V", Remove, 2, true},
		"with a silent one it may not":  {"a1 V; b1 V; c1 V down", Remove, 0, false},
		"but that one may":              {"a1 V; b1 V; c1 V down", Remove, 2, true},
		"one of five with a silent one": {"a1 V; b1 V; c1 V; d1 V; e1 V down", Remove, 0, true},
		"one of five with two":          {"a1 V; b1 V; c1 V; d1 V down; e1 V down", Remove, 0, false},
		"the last":                      {"a1 V; b1 L", Remove, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := deliberation{council: newCouncil(View{Servers: parse(t, tt.servers)})}
			if got := d.unsafe(tt.kind, tt.of); (got == "") != tt.safe {
				t.Errorf("unsafe = %q", got)
			}
			if s := d.do(tt.kind, tt.of, "because"); (s.Kind == tt.kind) != tt.safe {
				t.Errorf("do = %v", s)
			}
		})
	}
}

func (s Step) String() string { return fmt.Sprintf("%s %s (%s)", s.Kind, s.Server, s.Why) }
