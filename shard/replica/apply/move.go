package apply

import (
	"fmt"

	"pontoon/internal/moves"
	"pontoon/internal/pb"
	"pontoon/mvcc"
)

// Moving is the range as package moves sees it.
func (m *Shape) Moving() moves.Shape { return moves.Shape{Desc: m.Desc, Done: m.Done} }

// decideMove takes in what came with a change of the configuration.
func decideMove(m *Machine, d *Decision, context []byte) error {
	step := &pb.MoveStep{}
	if err := step.UnmarshalVT(context); err != nil {
		return fmt.Errorf("context of a change of the configuration: %w", err)
	}
	after, err := m.Moving().After(step)
	if err != nil {
		return err
	}
	d.Moved = step
	d.reshape = &reshape{desc: after.Desc, done: after.Done}
	d.Change.State = append(d.Change.State, DescUpdate(after.Desc), mvcc.StateUpdate{Key: stateDone, Value: Marshal(after.Done)})
	return nil
}
