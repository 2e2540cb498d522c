-- For wrk: POSTs the lines of a file in order, one a request; benchmarks/wrk.py runs it with a single thread, so one
-- counter orders the requests of all connections. Reports as one line of JSON.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  requests, sent, tried = {}, 0, false
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  for line in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format(nil, nil, nil, line)
  end
end

function request()
  if not tried then -- wrk asks for one request before it starts, and does not send it
    tried = true
    return requests[1]
  end
  sent = sent + 1
  return requests[(sent - 1) % #requests + 1]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"answered": %d, "microseconds": %d, "sent": %d, "bad_status": %d, "broken": %d}\n',
    summary.requests, summary.duration, threads[1]:get("sent"), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout
  ))
end
