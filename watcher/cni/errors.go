package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/meshvpc/meshvpc/watcher/local"
)

// Codes of our own. The specification leaves those from 100 on to plugins.
const (
	codeElsewhere uint = 100 // the endpoint belongs to another node
	codeTaken     uint = 101 // the endpoint or the device is in use
	codeTarget    uint = 102 // the agent cannot use the namespace
	codeExhausted uint = 103 // no address is left
	codeNotSo     uint = 104 // CHECK: the container is not as its result says
)

// codes are those of the agent's refusals.
var codes = map[local.Code]uint{
	local.CodeInvalid:     types.ErrInvalidNetworkConfig,
	local.CodeNotFound:    types.ErrInvalidNetworkConfig,
	local.CodeElsewhere:   codeElsewhere,
	local.CodeTaken:       codeTaken,
	local.CodeTarget:      codeTarget,
	local.CodeExhausted:   codeExhausted,
	local.CodeUnavailable: types.ErrTryAgainLater,
}

// explain says what could not be done, why and what to do, with a code.
func explain(what string, err error) *types.Error {
	msg := fmt.Sprintf("%s: %v", what, err)
	if e, ok := errors.AsType[*types.Error](err); ok {
		return e
	}
	if r, ok := errors.AsType[*local.Refusal](err); ok {
		code, known := codes[r.Code]
		if !known {
			code = types.ErrInternal
		}
		return types.NewError(code, msg, r.Hint)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return types.NewError(types.ErrPluginNotAvailable, msg, `this host is no node of a cluster: "meshvpc cluster join" makes it one`)
	case errors.Is(err, local.ErrNoAgent):
		return types.NewError(types.ErrTryAgainLater, msg, `start it ("meshvpc service status" says what is wrong), then try again`)
	case errors.Is(err, context.DeadlineExceeded):
		return types.NewError(types.ErrTryAgainLater, msg, `the agent is too slow to answer: "meshvpc status" says what is wrong`)
	}
	return types.NewError(types.ErrIOFailure, msg, "")
}

// isRefusal reports whether the agent refused with that code.
func isRefusal(err error, code local.Code) bool {
	r, ok := errors.AsType[*local.Refusal](err)
	return ok && r.Code == code
}

// printError writes an error as the specification has it; the library leaves the
// version out. "" is the newest.
func printError(w io.Writer, cniVersion string, e *types.Error) error {
	if cniVersion == "" {
		cniVersion = version.Current()
	}
	b, err := json.Marshal(struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{cniVersion, e})
	if err != nil {
		return fmt.Errorf("print error: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
