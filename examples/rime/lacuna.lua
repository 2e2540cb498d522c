-- A filter for Rime (librime-lua): orders candidates by their probability after what was committed.
-- Put this file into the folder `lua` of Rime's user folder, add to luna_pinyin.custom.yaml
--   patch:
--     engine/filters/+: [lua_filter@*lacuna]
--     lacuna/url: http://127.0.0.1:8000
-- and deploy. It needs a POSIX shell and curl. Without an answer in time, the order stays.

local CANDIDATES, CONTEXT_BYTES, SECONDS = 20, 300, "0.2"

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function json(text)
  return '"' .. text:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

-- The body goes through a pipe, so no text is in a command line or a file. If curl is missing, `cat`
-- reads the body: writing to a closed pipe would end the process of the input method.
local function log_probabilities(env, texts)
  local strings, found, path = {}, {}, os.tmpname()
  for place, text in ipairs(texts) do strings[place] = json(text) end
  local curl = assert(io.popen(
    "{ curl -sf -m " .. quoted(env.seconds) .. " -o " .. quoted(path)
      .. " -H 'Content-Type: application/json' --data-binary @- "
      .. quoted(env.url .. "/score") .. " || cat; } >/dev/null 2>&1", "w"))
  curl:write('{"context":', json(env.before), ',"text":[', table.concat(strings, ","), "]}")
  curl:close()
  for line in io.lines(path) do
    for number in line:gmatch('"log_probability":(-?[%d.eE+-]+)') do
      found[#found + 1] = tonumber(number)
    end
  end
  os.remove(path)
  return found
end

-- Only candidates for all of the typed letters compete; shorter ones follow.
local function yield_best_first(candidates, env)
  local whole, others, texts, places = {}, {}, {}, {}
  for _, candidate in ipairs(candidates) do
    local list = candidate._end == candidates[1]._end and whole or others
    list[#list + 1] = candidate
  end
  for place, candidate in ipairs(whole) do texts[place], places[place] = candidate.text, place end
  local answered, found = pcall(log_probabilities, env, texts)
  if not answered or #found ~= #texts then
    for _, candidate in ipairs(candidates) do yield(candidate) end
    return
  end
  table.sort(places, function(a, b)
    return found[a] > found[b] or found[a] == found[b] and a < b
  end)
  for _, place in ipairs(places) do yield(whole[place]) end
  for _, candidate in ipairs(others) do yield(candidate) end
end

local function init(env)
  local config, context = env.engine.schema.config, env.engine.context
  env.url = config:get_string("lacuna/url") or "http://127.0.0.1:8000"
  env.seconds = config:get_string("lacuna/seconds") or SECONDS
  env.before = ""
  env.connection = context.commit_notifier:connect(function(committed)
    local text = (env.before .. committed:get_commit_text()):sub(-CONTEXT_BYTES)
    env.before = text:gsub("^[\128-\191]+", "")
  end)
end

local function filter(input, env)
  local first = {}
  for candidate in input:iter() do
    if not first then
      yield(candidate)
    else
      first[#first + 1] = candidate
      if #first == CANDIDATES then first = yield_best_first(first, env) end
    end
  end
  if first and first[1] then yield_best_first(first, env) end
end

return { init = init, func = filter, fini = function(env) env.connection:disconnect() end }
