package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/demo"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// labWait is how long a lab may take to be ready.
const labWait = 2 * time.Minute

// labCommands is the noun lab.
func (p *program) labCommands() []*cli.Command {
	fault := p.noun("fault", "break a host or the underlay, and mend it", nil,
		p.labFault("kill", "HOST", "SIGKILL its processes; what they made in the kernel stays", true, onServices((*lab.Lab).Kill)),
		p.labFault("start", "HOST", "start them again", true, onServices((*lab.Lab).StartServices)),
		p.labFault("freeze", "HOST", "SIGSTOP its processes", true, onServices((*lab.Lab).Freeze)),
		p.labFault("thaw", "HOST", "SIGCONT them", true, onServices((*lab.Lab).Thaw)),
		p.labFault("cut", "HOST|DC [HOST|DC]", "drop all packets between two sides, or between one and the rest", false,
			func(ctx context.Context, l *lab.Lab, c *cli.Context) error {
				return l.Cut(ctx, c.Args().Get(0), c.Args().Get(1))
			}),
		p.labFault("oneway", "HOST|DC HOST|DC", "drop all packets from one side to the other; what comes back arrives", false,
			func(ctx context.Context, l *lab.Lab, c *cli.Context) error {
				return l.OneWay(ctx, c.Args().Get(0), c.Args().Get(1))
			}),
		p.labFault("delay", "HOST|DC HOST|DC DURATION", "have each packet between two sides take longer by so much", false, impair),
		p.labFault("loss", "HOST|DC HOST|DC PERCENT", "lose so many packets between two sides", false, impair),
		p.labFault("heal", "", "end all cuts, delays and losses", false,
			func(ctx context.Context, l *lab.Lab, _ *cli.Context) error { return l.Heal(ctx) }),
		p.labFault("readdress", "HOST", "move it to another underlay address", false,
			func(ctx context.Context, l *lab.Lab, c *cli.Context) error {
				_, err := l.Readdress(ctx, c.Args().First())
				return err
			}),
		p.labFault("poweroff", "HOST|DC", "kill its processes and destroy its namespaces; its disk stays", false,
			func(ctx context.Context, l *lab.Lab, c *cli.Context) error { return l.PowerOff(ctx, c.Args().First()) }),
		p.labFault("boot", "HOST|DC", "start it with an empty kernel and its old disk", false,
			func(ctx context.Context, l *lab.Lab, c *cli.Context) error { return l.Boot(ctx, c.Args().First()) }),
	)
	noun := p.noun("lab", "hosts as network namespaces on this machine, to try things out",
		[]string{
			"meshvpc lab demo",
			"meshvpc lab up --hosts 3",
			"meshvpc lab status",
			"meshvpc lab exec jhoster1 -- meshvpc vpc create vpc1 --members all",
			"meshvpc lab workload jhoster1 web --vpc vpc1 --ip 10.10.11.1/24",
			"meshvpc lab exec jhoster1 --workload web -- ping -c 3 10.10.11.2",
			"meshvpc lab fault kill jhoster1 --only agent",
			"meshvpc lab fault cut hetzner skynet",
			"meshvpc lab fault delay hetzner skynet 75ms",
			"meshvpc lab fault loss hetzner skynet 5%",
			"meshvpc lab stranger -- ip address",
			"meshvpc lab down",
		},
		p.labDemoCommand(),
		p.verb("up", "", "make a lab, a cluster in it, and keep it running", []cli.Flag{
			&cli.IntFlag{Name: "hosts", Value: 3, Usage: "how many"},
			&cli.IntFlag{Name: "datacenters", Usage: "how many (default: the article's two, or three)"},
			&cli.IntFlag{Name: "servers", Value: 3, Usage: "1, or 3: on the first hosts of three datacenters, and on a witness if there are two"},
			&cli.StringFlag{Name: "underlay", Value: string(lab.IPv6), Usage: "ipv6, ipv4 or dual"},
			&cli.BoolFlag{Name: "segment", Usage: "put all hosts on one segment, which carries multicast"},
			labFlag(lab.DefaultName), timeoutFlag(labWait, "how long to wait until it is ready"), outputFlag(),
		}, p.labUp),
		p.verb("down", "", "end a lab; nothing of it stays", []cli.Flag{labFlag(lab.DefaultName), outputFlag()}, p.labDown),
		p.verb("status", "", "the hosts of a lab and what runs on them", []cli.Flag{labFlag(lab.DefaultName), outputFlag()}, p.labStatus),
		p.verb("exec", "HOST -- CMD...", "run a command on a host, or in a workload of it", []cli.Flag{
			labFlag(lab.DefaultName), &cli.StringFlag{Name: "workload", Usage: "`NAME` of a workload of the host"}}, p.labExec),
		p.verb("workload", "HOST NAME", "make a namespace with a port in a VPC, or without --vpc one to attach to an endpoint", []cli.Flag{labFlag(lab.DefaultName),
			&cli.StringFlag{Name: "vpc", Usage: "`V` to be in (default: none, and no device)"},
			&cli.StringSliceFlag{Name: "ip", Usage: "`ADDRESS/LENGTH`; may be repeated (required with --vpc)"}, outputFlag()}, p.labWorkload),
		fault,
		p.verb("stranger", "-- CMD...", "run a command on the underlay, where no node is", []cli.Flag{labFlag(lab.DefaultName)}, p.labStranger),
	)
	fault.Action = func(*cli.Context) error { return missingCommand([]string{"lab", "fault"}, fault.Subcommands) }
	return []*cli.Command{noun}
}

func labFlag(name string) cli.Flag {
	return &cli.StringFlag{Name: "lab", Value: name, Usage: "`NAME` of the lab", EnvVars: []string{"MESHVPC_LAB"}}
}

// labFault is a verb of `lab fault`.
func (p *program) labFault(name, args, text string, only bool, do func(context.Context, *lab.Lab, *cli.Context) error) *cli.Command {
	flags := []cli.Flag{labFlag(lab.DefaultName)}
	if only {
		flags = append(flags, &cli.StringFlag{Name: "only", Usage: "agent or server"})
	}
	return p.verb(name, args, text, flags, func(ctx context.Context, c *cli.Context) error {
		if o := c.String("only"); o != "" && o != "agent" && o != "server" {
			return usage("want agent or server", "invalid --only %q", o)
		}
		l, err := openLab(c)
		if err != nil {
			return err
		}
		return do(ctx, l, c)
	})
}

// impair is for the faults delay and loss.
func impair(ctx context.Context, l *lab.Lab, c *cli.Context) (err error) {
	fault := lab.Impairment{A: c.Args().Get(0), B: c.Args().Get(1)}
	text := c.Args().Get(2)
	if c.Command.Name == "delay" {
		if fault.Delay, err = time.ParseDuration(text); err != nil || fault.Delay < 0 {
			return usage("want a time like 75ms", "invalid delay %q", clean(text))
		}
	} else {
		percent, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
		if err != nil || !(percent >= 0 && percent <= 100) {
			return usage("want 0% to 100%", "invalid loss %q", clean(text))
		}
		fault.Loss = percent / 100
	}
	return l.Impair(ctx, fault)
}

// onServices applies a method of the lab to the host and the service named.
func onServices(do func(*lab.Lab, context.Context, string, string) error) func(context.Context, *lab.Lab, *cli.Context) error {
	return func(ctx context.Context, l *lab.Lab, c *cli.Context) error {
		return do(l, ctx, c.Args().First(), c.String("only"))
	}
}

func openLab(c *cli.Context) (*lab.Lab, error) { return lab.Open(c.String("lab")) }

func (p *program) labUp(ctx context.Context, c *cli.Context) error {
	servers := c.Int("servers")
	if servers != 1 && servers != 3 {
		return usage("want 1 or 3", "invalid --servers %d", servers)
	}
	hosts, err := demo.Hosts(c.Int("hosts"), c.Int("datacenters"), servers > 1)
	if err != nil {
		return &refusal{exitUsage, err, ""}
	}
	wait, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	bar := p.progress()
	defer bar.done()
	bar.show("lab %s: making %d hosts and a cluster of them", c.String("lab"), len(hosts))
	l, err := lab.Start(wait, lab.Config{Name: c.String("lab"), Hosts: hosts, Underlay: lab.Underlay(c.String("underlay")), Segment: c.Bool("segment"), Detached: true})
	if err != nil {
		return err
	}
	site := &demo.Site{Lab: l, Server: hosts[0].Name}
	if servers > 1 {
		site.Servers = demo.ServersOf(hosts)
	}
	if err := raise(wait, site, hosts); err != nil {
		down, stop := context.WithTimeout(context.WithoutCancel(ctx), labWait)
		defer stop()
		if undone := l.Down(down); undone != nil {
			p.warn("%v", undone)
		}
		return err
	}
	bar.done()
	return p.labStatus(ctx, c)
}

// raise makes a cluster of a lab's hosts and waits until every agent is live and
// every server votes.
func raise(ctx context.Context, site *demo.Site, hosts []lab.HostConfig) error {
	if err := site.Found(ctx); err != nil {
		return err
	}
	var others []string
	agents := 1
	for _, h := range hosts[1:] {
		others = append(others, h.Name)
		if !h.Witness {
			agents++
		}
	}
	if err := site.Join(ctx, others...); err != nil {
		return err
	}
	if err := site.AwaitNodes(ctx, agents); err != nil {
		return err
	}
	return site.AwaitVoters(ctx, site.Server, 1+len(site.Servers))
}

func (p *program) labDown(ctx context.Context, c *cli.Context) error {
	if err := lab.Down(ctx, c.String("lab")); err != nil {
		return err
	}
	v := struct {
		Lab  string `json:"lab"`
		Down bool   `json:"down"`
	}{c.String("lab"), true}
	return p.print(c, v, func(w io.Writer) { fmt.Fprintf(w, "lab %s is gone\n", v.Lab) })
}

func (p *program) labStatus(ctx context.Context, c *cli.Context) error {
	l, err := openLab(c)
	if err != nil {
		return err
	}
	s, err := l.Status(ctx)
	if err != nil {
		return err
	}
	return p.print(c, s, func(w io.Writer) {
		fmt.Fprintf(w, "lab %s, underlay %s, MTU %d\n", s.Name, s.Underlay, s.MTU)
		var rows [][]string
		for _, h := range s.Hosts {
			state := "off"
			if h.On {
				state = "on"
			}
			var services, workloads []string
			for _, svc := range h.Services {
				services = append(services, svc.Name+" "+svc.State)
			}
			for _, wl := range h.Workloads {
				where := ""
				if wl.VPC != "" {
					where = fmt.Sprintf(" (%s %s)", wl.VPC, joinText(wl.Prefixes))
				}
				workloads = append(workloads, wl.Name+where)
			}
			rows = append(rows, []string{h.Name, h.Datacenter, joinText(h.Underlay), state, strings.Join(services, ", "), strings.Join(workloads, ", ")})
		}
		columns(w, []string{"host", "datacenter", "underlay", "power", "services", "workloads"}, rows)
		for _, cut := range s.Cuts {
			between := "–"
			if cut.OneWay {
				between = "→"
			}
			fmt.Fprintf(w, "cut: %s %s %s\n", cut.A, between, cmp.Or(cut.B, "everybody else"))
		}
		for _, i := range s.Impaired {
			fmt.Fprintf(w, "impaired: %s – %s: %s later each way, %g%% lost\n", i.A, cmp.Or(i.B, "everybody else"), i.Delay, 100*i.Loss)
		}
	})
}

func joinText[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return strings.Join(words, " ")
}

func (p *program) labExec(ctx context.Context, c *cli.Context) error {
	args := c.Args().Slice()
	return p.execIn(ctx, c, lab.Command{Host: args[0], Workload: c.String("workload"), Argv: args[1:]})
}

func (p *program) labStranger(ctx context.Context, c *cli.Context) error {
	return p.execIn(ctx, c, lab.Command{Host: lab.Stranger, Argv: c.Args().Slice()})
}

// execIn runs a command with this process's stdio, hands signals on, and ends
// with its exit code.
func (p *program) execIn(ctx context.Context, c *cli.Context, cmd lab.Command) error {
	l, err := openLab(c)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Signals = p.in, p.out, p.err, signals
	code, err := l.Exec(context.WithoutCancel(ctx), cmd)
	if err == nil && code != 0 {
		return exitCode(code)
	}
	return err
}

func (p *program) labWorkload(ctx context.Context, c *cli.Context) error {
	w := lab.Workload{Host: c.Args().Get(0), Name: c.Args().Get(1), VPC: c.String("vpc")}
	switch ips := len(c.StringSlice("ip")); {
	case w.VPC == "" && ips > 0:
		return usage("name the VPC by --vpc", "--ip of a workload that is in no VPC")
	case w.VPC == "":
	case ips == 0:
		return usage("give --ip ADDRESS/LENGTH", "workload %s has no address", w.Name)
	default:
		if err := cluster.CheckVPCName(w.VPC); err != nil {
			return &refusal{exitUsage, err, "see \"meshvpc vpc list\" in the lab"}
		}
	}
	for _, ip := range c.StringSlice("ip") {
		prefix, err := netip.ParsePrefix(ip)
		if err != nil {
			return usage("want an address with its length, like 10.10.11.1/24", "invalid --ip %q", ip)
		}
		w.Prefixes = append(w.Prefixes, prefix)
	}
	l, err := openLab(c)
	if err != nil {
		return err
	}
	if err := l.AddWorkload(ctx, w); err != nil {
		return err
	}
	return p.print(c, w, func(out io.Writer) {
		if w.VPC == "" {
			fmt.Fprintf(out, "workload %s on %s has no device yet: meshvpc lab exec %s -- meshvpc endpoint attach E --netns %s\n", w.Name, w.Host, w.Host, w.Name)
			return
		}
		fmt.Fprintf(out, "workload %s on %s is in VPC %s with %s\n", w.Name, w.Host, w.VPC, joinText(w.Prefixes))
	})
}
